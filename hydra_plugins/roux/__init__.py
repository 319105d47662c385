"""Registers the sweepers and the launcher: Hydra accepts plugin classes of this namespace only.

Hydra imports this file at every start, also of a single run, so it must import fast."""

from recipes.sweeps import grid, ray_launcher, search


class Grid(grid.GridSweeper):
    """`hydra/sweeper=roux`, the default."""


class Optuna(search.OptunaSweeper):
    """`hydra/sweeper=roux_optuna`."""


class Ray(ray_launcher.RayLauncher):
    """`hydra/launcher=roux_ray`."""
