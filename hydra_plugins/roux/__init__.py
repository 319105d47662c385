"""Our sweepers and our launcher, where Hydra looks for plugins: it takes classes of this namespace
alone.

Hydra imports this file at every start, a single run's included, so that it and what it imports must
stay light."""

from recipes.sweeps import grid, ray_launcher, search


class Grid(grid.GridSweeper):
    """`hydra/sweeper=roux`, the default."""


class Optuna(search.OptunaSweeper):
    """`hydra/sweeper=roux_optuna`."""


class Ray(ray_launcher.RayLauncher):
    """`hydra/launcher=roux_ray`."""
