"""Data: toy distributions, images that a package ships, image folders and latent caches."""
