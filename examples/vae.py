"""A variational autoencoder: `compute=` is the user's own forward and loss, where the loss needs more than outputs and targets."""

import torch
from torch import nn

import fivestep as fs


class VAE(nn.Module):
    def __init__(self, num_inputs, num_hidden=64, num_latent=2):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(num_inputs, num_hidden), nn.SiLU(), nn.Linear(num_hidden, 2 * num_latent))
        self.decoder = nn.Sequential(nn.Linear(num_latent, num_hidden), nn.SiLU(), nn.Linear(num_hidden, num_inputs))

    def forward(self, x):  # what predict gives: the reconstruction from the middle of the code, without noise
        return self.decoder(self.encoder(x).chunk(2, dim=1)[0])


def negative_elbo(model, x, targets):
    """Kingma & Welling 2013, equation 10: what the reconstruction misses, and how far the code is from a standard normal; the mean over the batch."""
    mean, log_variance = model.encoder(x).chunk(2, dim=1)
    latent = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
    missed = (model.decoder(latent) - x).square().sum(dim=1) / (2 * 0.1**2)  # a normal with deviation 0.1 around each output
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
    return (missed + divergence).mean()


def main():
    draw = torch.Generator().manual_seed(0)
    angle = 2 * torch.pi * torch.rand(2000, generator=draw)
    ring = torch.stack([angle.cos(), angle.sin()], dim=1) + 0.05 * torch.randn(2000, 2, generator=draw)

    splits = fs.Data.arrays(ring).split(train=0.85, val=0.15)  # no targets
    run = fs.fit(VAE, splits, compute=negative_elbo, optimizer="Adam", lr=3e-3, batch_size=64, epochs=100)

    reconstruction = run.predict(ring)
    with torch.no_grad():
        samples = run.model.decoder(torch.randn(1000, 2, generator=draw))
    print(f"distance of a point from its reconstruction: {(reconstruction - ring).norm(dim=1).mean():.3f}")
    print(f"radius of new samples: {samples.norm(dim=1).mean():.2f} +- {samples.norm(dim=1).std():.2f} (the ring has 1.00 +- 0.05)")


if __name__ == "__main__":
    main()
