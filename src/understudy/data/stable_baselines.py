"""Expert datasets of Stable-Baselines 2: recording them, reading old ones, and their loaders.

An archive is a ``.npz`` with, for N steps in E episodes one after the other (S is the shape of the space, (1,) for a
discrete one):

===================  ===========  ======================================================================
``actions``          (N,) + S     what was done in each observation
``obs``              (N,) + S     observations; or, of images, N names of files, relative to the archive
``rewards``          (N,)
``episode_returns``  (E,)         float64
``episode_starts``   (N,)         bool, True in each episode's first row
``terminal_obs``     (E,) + S     the observation after each last action; ours only, older readers ignore it
``truncated``        (E,)         a time limit ended the episode; ours only
===================  ===========  ======================================================================

Every algorithm here takes such an archive, by its path or as an ``ExpertDataset``, for ``demonstrations``.
"""

from __future__ import annotations

from understudy.data._stable_baselines_dataset import ExpertDataset
from understudy.data._stable_baselines_generate import generate_expert_traj
from understudy.data._stable_baselines_loader import DataLoader

__all__ = ["DataLoader", "ExpertDataset", "generate_expert_traj"]
