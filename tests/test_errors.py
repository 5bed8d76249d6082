"""P3: each kind of error has the exit code that RELIABILITY gives it, and a code of its own family in Python."""

import pytest

import fivestep as fs
from fivestep.checks.findings import Finding
from fivestep.errors import FindingsError, Interrupted, NonFiniteError

CODES = {
    fs.UsageError: 64, fs.DataError: 65, fs.MissingInputError: 66, fs.ArtifactError: 66, fs.TrainingError: 70, fs.CannotCreateError: 73, fs.StorageError: 74,
    fs.LockedError: 75, fs.SettingsError: 78,
}  # fmt: skip


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.__name__)
def test_p3_each_error_has_its_exit_code(kind):
    assert kind("told").exit_code == CODES[kind] and issubclass(kind, fs.FivestepError)


def test_p3_findings_on_data_are_65_on_model_and_settings_78_and_a_nan_is_70():
    found = {code: Finding(code, "error", "seen") for code in ("D03", "S01", "M03", "L02")}
    assert FindingsError([found["D03"], found["S01"]]).exit_code == 65
    assert FindingsError([found["D03"], found["L02"]]).exit_code == 78 == FindingsError([found["M03"]]).exit_code
    assert NonFiniteError("told", step=1).exit_code == 70 and isinstance(NonFiniteError("told", step=1), fs.TrainingError)
    assert [Interrupted("told", exit_code=128 + number).exit_code for number in (2, 15)] == [130, 143]
