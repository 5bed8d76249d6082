"""A table from a file to predictions for new rows: text, numbers and gaps are encoded by what the training rows show."""

import polars

import fivestep as fs


def main():
    data = fs.Data.table(fs.datasets.penguins(), target="species", missing=["NA"])  # a path; yours goes here
    print(data)
    splits = data.split(stratify=True, seed=0)  # 70/15/15, the same share of each species

    for finding in fs.check("mlp", splits):
        print(finding)
    run = fs.fit("mlp", splits, epochs=60)
    print(run.evaluate("test"))  # with intervals, beside the score of always saying the commonest species
    run.save("penguins.fivestep", replace=True)

    # Later, elsewhere: values in the table's own words and units, a gap where nothing was measured. A path, a pandas frame or a dict goes as well.
    new = polars.DataFrame(
        {
            "island": ["Biscoe", "Dream"],
            "bill_length_mm": [47.5, None],
            "bill_depth_mm": [15.0, 18.5],
            "flipper_length_mm": [218, 195],
            "body_mass_g": [5050, 3700],
            "sex": ["male", "female"],
            "year": [2008, 2009],
        }
    )
    model = fs.load("penguins.fivestep")
    print(model.predict(new, probabilities=True))


if __name__ == "__main__":
    main()
