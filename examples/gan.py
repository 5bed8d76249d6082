"""A generative adversarial network: `step=` is the user's own five steps, twice, with an optimizer for each half. Seeds, checkpoints and history stay."""

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

import fivestep as fs


class GAN(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))
        self.discriminator = nn.Sequential(nn.Linear(1, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

    def forward(self, noise):
        return self.generator(noise)


def adversarial_step(model, optimizers, real, targets):
    real_label, fake_label = torch.ones(len(real), 1), torch.zeros(len(real), 1)
    fake = model(torch.randn(len(real), 4))

    # The discriminator tells real from fake. detach: this step must not move the generator.
    d_loss = bce(model.discriminator(real), real_label) + bce(model.discriminator(fake.detach()), fake_label)
    optimizers["discriminator"].zero_grad()
    d_loss.backward()
    optimizers["discriminator"].step()

    # The generator wants its samples to be called real.
    g_loss = bce(model.discriminator(fake), real_label)
    optimizers["generator"].zero_grad()
    g_loss.backward()
    optimizers["generator"].step()
    return {"g_loss": g_loss, "d_loss": d_loss}


def main():
    real = 4 + 1.25 * torch.randn(4096, 1, generator=torch.Generator().manual_seed(0))
    adam = {"name": "Adam", "lr": 1e-3, "betas": (0.5, 0.999)}
    run = fs.fit(GAN, fs.Splits(fs.Data.arrays(real)), step=adversarial_step, optimizer={"generator": adam, "discriminator": adam}, batch_size=64, epochs=30)

    with torch.no_grad():
        samples = run.model(torch.randn(5000, 4, generator=torch.Generator().manual_seed(1)))
    print(f"real    mean {real.mean():.2f}, deviation {real.std():.2f}")
    print(f"samples mean {samples.mean():.2f}, deviation {samples.std():.2f}")


if __name__ == "__main__":
    main()
