"""What GAIL and AIRL share: rounds of a learner that is paid by a discriminator, and of the discriminator itself."""

from __future__ import annotations

import abc
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import Tensor

from understudy.algorithms import base
from understudy.algorithms._network_state import restore_optimizer
from understudy.algorithms.adversarial._figures import compute_train_stats
from understudy.algorithms.adversarial._payment import Payment
from understudy.algorithms.adversarial._rounds import Rounds, RoundsWishes, all_of
from understudy.algorithms.adversarial._samples import (
    ExpertRows,
    Rows,
    joined,
    labels,
    picked,
    rows_of,
)
from understudy.algorithms.adversarial._sizes import a_rollout, usual_capacity, usual_round
from understudy.algorithms.checkpoints import Checkpoints
from understudy.data.demonstrations import BatchStream, as_demonstrations
from understudy.data.fingerprint import fingerprint
from understudy.data.types import AnyPath, Transitions
from understudy.errors import (
    CallOrderError,
    CheckpointError,
    ConfigError,
    DataError,
    MissingExtraError,
    TrainingDivergedError,
)
from understudy.rewards.reward_nets import RewardNet
from understudy.rewards.reward_wrapper import RewardVecEnvWrapper
from understudy.rl.learner_state import learner_state, restore_learner
from understudy.rl.rounds import BetweenRollouts
from understudy.util.checkpoint import latest, read_checkpoint, using
from understudy.util.logger import HierarchicalLogger
from understudy.util.paths import parse_path
from understudy.util.seeding import generator_from, generator_state, make_seeds

_log = logging.getLogger(__name__)


__all__ = ["AdversarialTrainer", "compute_train_stats"]


class AdversarialTrainer(base.DemonstrationAlgorithm[Transitions]):
    """Base of adversarial imitation.

    A round is a rollout of the learner (or more, up to ``gen_train_timesteps``), paid by ``reward_train`` and learned
    from, and then ``n_disc_updates_per_round`` updates of the discriminator. All rounds are one ``learn`` of the
    learner: its schedules, callbacks and progress see a single run.

    Args:
        demonstrations: whole transitions: anything the data door takes that has next observations.
        demo_batch_size: the expert's rows in a discriminator's batch; as many of the learner's come with them.
        venv: the environments.
        gen_algo: the learner. Its environment becomes ``venv_train`` and its logger this trainer's.
        reward_net: what the subclass makes its logits of.
        demo_minibatch_size: accumulate gradients over pieces with so many rows of each, to save memory; must divide
            ``demo_batch_size``.
        n_disc_updates_per_round: updates of the discriminator after each of the learner's.
        log_dir: where TensorBoard's files go.
        disc_opt_cls: a ``torch.optim`` class.
        disc_opt_kwargs: for it.
        gen_train_timesteps: the learner's environment steps in a round; None is a rollout on-policy, and a step of all
            environments off-policy. Rounded up to whole rollouts (off-policy ``train_freq`` steps), which is what a
            learner makes.
        gen_replay_buffer_capacity: the learner's rows kept for the discriminator; None keeps those of a round
            on-policy, and off-policy as many as the learner's own replay holds. Of a larger round they are drawn at
            random.
        custom_logger: where to log.
        init_tensorboard: write TensorBoard's files to ``log_dir``.
        init_tensorboard_graph: and the discriminator's graph.
        debug_use_ground_truth: pay the learner the environment's rewards.
        allow_variable_horizon: see ``BaseImitationAlgorithm``.
        rng: decides everything random here that is not the learner's: a generator, a seed, or None for one drawn from
            the learner's seed.

    Raises:
        ConfigError: contradictory options, fewer demonstrations than a batch, or a learner that cannot be paid so.
        DataError: demonstrations without next observations, or of different lengths.
        SpaceMismatchError: the demonstrations are of other spaces.
    """

    venv: VecEnv
    """The environments, as they were given."""
    venv_train: VecEnvWrapper
    """What the learner acts in: the environments, recording; the learner is paid afterwards, in whole rollouts."""
    venv_wrapped: VecEnvWrapper
    """The environments paying ``reward_train`` step by step, for loops of one's own."""

    def __init__(
        self,
        *,
        demonstrations: base.AnyTransitions,
        demo_batch_size: int,
        venv: VecEnv,
        gen_algo: BaseAlgorithm,
        reward_net: RewardNet,
        demo_minibatch_size: int | None = None,
        n_disc_updates_per_round: int = 2,
        log_dir: AnyPath = "output/",
        disc_opt_cls: type[torch.optim.Optimizer] = torch.optim.Adam,
        disc_opt_kwargs: Mapping[str, Any] | None = None,
        gen_train_timesteps: int | None = None,
        gen_replay_buffer_capacity: int | None = None,
        custom_logger: HierarchicalLogger | None = None,
        init_tensorboard: bool = False,
        init_tensorboard_graph: bool = False,
        debug_use_ground_truth: bool = False,
        allow_variable_horizon: bool = False,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        if demo_batch_size < 1 or n_disc_updates_per_round < 1:
            raise ConfigError(
                expected="`demo_batch_size` and `n_disc_updates_per_round` ≥ 1",
                got=f"{demo_batch_size} and {n_disc_updates_per_round}",
                do="pass 1 or more",
            )
        minibatch = demo_batch_size if demo_minibatch_size is None else demo_minibatch_size
        if minibatch < 1 or demo_batch_size % minibatch:
            raise ConfigError(
                expected=f"`demo_minibatch_size` that divides demo_batch_size={demo_batch_size}",
                got=str(minibatch),
                do="pass a divisor",
            )
        self.demo_batch_size = demo_batch_size
        self.demo_minibatch_size = minibatch
        self.n_disc_updates_per_round = n_disc_updates_per_round
        self.venv = venv
        self.gen_algo = gen_algo
        self.debug_use_ground_truth = debug_use_ground_truth
        self.rng = _generator(gen_algo.seed if rng is None else rng)
        self._reward_net = reward_net.to(gen_algo.device)
        self._expert: ExpertRows | None = None
        super().__init__(
            demonstrations=demonstrations, custom_logger=custom_logger, allow_variable_horizon=allow_variable_horizon
        )
        self.disc_optimizer = disc_opt_cls(self._reward_net.parameters(), **dict(disc_opt_kwargs or {}))
        self.gen_train_timesteps = usual_round(gen_algo) if gen_train_timesteps is None else gen_train_timesteps
        if self.gen_train_timesteps < 1:
            raise ConfigError(expected="`gen_train_timesteps` ≥ 1", got=str(gen_train_timesteps), do="leave it out")
        rollout = a_rollout(gen_algo)
        self.gen_train_timesteps = -(-self.gen_train_timesteps // rollout) * rollout
        capacity = gen_replay_buffer_capacity
        if capacity is None:
            capacity = usual_capacity(gen_algo, self.gen_train_timesteps)
        self._payment = Payment(self, venv, capacity, lambda n: self._check_fixed_horizon(n, "the environment"))
        self.venv_train = self._payment.recorder
        self.venv_wrapped = RewardVecEnvWrapper(venv, self.reward_train.predict_processed)
        self.n_disc_updates = 0
        """Updates of the discriminator so far."""
        self.n_rounds = 0
        """Rounds so far."""
        gen_algo.set_env(self.venv_train)
        gen_algo.set_logger(self.logger)
        self.summaries: Any = _summaries(log_dir) if init_tensorboard else None
        """Where TensorBoard's files are written, if they are."""
        self._graph_due = init_tensorboard and init_tensorboard_graph

    @property
    def policy(self) -> BasePolicy:
        """The learner's."""
        return self.gen_algo.policy

    @abc.abstractmethod
    def logits_expert_is_high(
        self,
        state: Tensor,
        action: Tensor,
        next_state: Tensor,
        done: Tensor,
        log_policy_act_prob: Tensor | None = None,
    ) -> Tensor:
        """Logits of the discriminator, high for the expert.

        Args:
            state: preprocessed, shape (batch, *obs), or a dictionary of such.
            action: preprocessed, shape (batch, *act); choices as zeros and a one.
            next_state: as ``state``.
            done: terminated, shape (batch,).
            log_policy_act_prob: log π(action | state) of the learner, shape (batch,), where the subclass needs it.

        Returns:
            Shape (batch,).
        """

    @property
    @abc.abstractmethod
    def reward_train(self) -> RewardNet:
        """What pays the learner."""

    @property
    @abc.abstractmethod
    def reward_test(self) -> RewardNet:
        """What to pay another learner afterwards."""

    def set_demonstrations(self, demonstrations: base.AnyTransitions) -> None:
        """Replace the demonstrations.

        Raises:
            DataError: without next observations, in batches only, or of different lengths (see
                ``allow_variable_horizon``).
            SpaceMismatchError: they do not fit the environments.
            ConfigError: fewer transitions than a batch.
        """
        found = as_demonstrations(
            demonstrations, observation_space=self.venv.observation_space, action_space=self.venv.action_space
        )
        if isinstance(found, BatchStream):
            raise DataError(
                expected="demonstrations in hand",
                got="a loader of batches",
                do="pass trajectories, transitions or a path",
            )
        if found.next_obs is None:
            raise DataError(
                expected="transitions with next observations",
                got="observations and actions only",
                do="pass trajectories, or Transitions",
            )
        if found.episodes_known:
            self._check_fixed_horizon(found.episode_lengths.tolist(), "the demonstrations")
        self._demonstrations_fingerprint = fingerprint(found)
        rows = found.to_transitions()
        self._expert = ExpertRows(
            {"obs": rows.obs, "acts": rows.acts, "next_obs": rows.next_obs, "dones": rows.dones}, self.demo_batch_size
        )

    # --- the discriminator ------------------------------------------------------------------------------------------

    def train_disc(
        self, *, expert_samples: Mapping[str, Any] | None = None, gen_samples: Mapping[str, Any] | None = None
    ) -> Mapping[str, float]:
        """One update of the discriminator.

        Args:
            expert_samples: ``obs``, ``acts``, ``next_obs`` and ``dones`` of ``demo_batch_size`` rows; None takes the
                next ones of the demonstrations.
            gen_samples: the same of the learner; None draws as many from its newest steps.

        Returns:
            See ``compute_train_stats``: the figures of the whole batch before the update.

        Raises:
            ConfigError: another number of rows, or a field missing.
            CallOrderError: no steps of the learner yet.
            TrainingDivergedError: the loss is not finite; parameters are as they were.
        """
        expert, learner = self._batch(expert_samples, gen_samples)
        n, piece = len(expert["acts"]), self.demo_minibatch_size
        self._reward_net.train()
        normalisers = [(buffer, buffer.clone()) for buffer in self._reward_net.buffers()]
        self.disc_optimizer.zero_grad()
        logits, marks, total = [], [], torch.zeros((), device=self.gen_algo.device)
        for start in range(0, n, piece):
            part = slice(start, start + piece)
            found, mark = self._logits_and_labels(picked(expert, part), picked(learner, part))
            loss = F.binary_cross_entropy_with_logits(found, mark) * (piece / n)
            loss.backward()
            total += loss.detach()
            logits.append(found.detach())
            marks.append(mark)
        if not torch.isfinite(total):
            with torch.no_grad():
                for buffer, before in normalisers:
                    buffer.copy_(before)
            raise TrainingDivergedError(
                expected="a finite loss of the discriminator",
                got=f"{float(total)} at update {self.n_disc_updates}",
                do="lower disc_opt_kwargs={'lr': …}, or normalise the reward net's inputs with RunningNorm; its "
                "parameters are those before this update",
            )
        self.disc_optimizer.step()
        self.n_disc_updates += 1
        return compute_train_stats(torch.cat(logits), torch.cat(marks), total)

    def _batch(self, expert: Mapping[str, Any] | None, learner: Mapping[str, Any] | None) -> tuple[Rows, Rows]:
        if expert is not None:
            expert_rows = rows_of(expert)
        else:
            if self._expert is None:
                raise CallOrderError(
                    expected="demonstrations", got="none so far", do="call set_demonstrations before train_disc"
                )
            expert_rows = self._expert.next_batch(self.rng)
        n = len(expert_rows["acts"])
        learner_rows = rows_of(learner) if learner is not None else self._payment.rows.sample(n, self.rng)
        sizes = {"expert_samples": n, "gen_samples": len(learner_rows["acts"])}
        if set(sizes.values()) != {self.demo_batch_size}:
            raise ConfigError(
                expected=f"demo_batch_size={self.demo_batch_size} rows of each",
                got=", ".join(f"{size} in {name}" for name, size in sizes.items()),
                do="cut the samples, or make the trainer with another demo_batch_size",
            )
        return expert_rows, learner_rows

    def _logits_and_labels(self, expert: Rows, learner: Rows) -> tuple[Tensor, Tensor]:
        rows = joined(expert, learner)
        mark = labels(len(expert["acts"]), len(learner["acts"]), self.gen_algo.device)
        log_probs = self._log_probs(rows)
        ready = self._reward_net.preprocess(rows["obs"], rows["acts"], rows["next_obs"], rows["dones"])
        if self._graph_due:
            self.summaries.add_graph(self._reward_net, ready)
            self._graph_due = False
        return self.logits_expert_is_high(*ready, log_probs), mark  # type: ignore[arg-type]

    def _log_probs(self, rows: Rows) -> Tensor | None:
        """log π(action | state) of the learner as it is now, shape (batch,), without gradient; None if not needed."""
        return None

    # --- the learner ------------------------------------------------------------------------------------------------

    def train_gen(self, total_timesteps: int | None = None, learn_kwargs: Mapping[str, Any] | None = None) -> None:
        """Let the learner learn, paid by ``reward_train``; its steps are kept for the discriminator.

        Args:
            total_timesteps: environment steps; None is ``gen_train_timesteps``.
            learn_kwargs: for the learner's ``learn``.

        Raises:
            DataError: episodes of different lengths (see ``allow_variable_horizon``).
        """
        wanted = self.gen_train_timesteps if total_timesteps is None else total_timesteps
        options = {"reset_num_timesteps": False, **dict(learn_kwargs or {})}
        own = options.pop("callback", None)
        with self._payment.open():
            self.gen_algo.learn(
                wanted, callback=all_of(own, BetweenRollouts(at_end=self._payment.keep_steps)), **options
            )

    # --- rounds -----------------------------------------------------------------------------------------------------

    def train(
        self,
        total_timesteps: int,
        callback: Callable[[int], None] | None = None,
        *,
        learner_callback: MaybeCallback = None,
        progress_bar: bool = False,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        """Rounds of learner and discriminator.

        Args:
            total_timesteps: most environment steps; as many whole rounds are made as fit.
            callback: called with the number of each round, counted from 0, after it.
            learner_callback: callbacks of Stable-Baselines3 for the learner.
            progress_bar: show one, with the time left.
            checkpoints: save as the training goes, so that it can be resumed exactly; its unit is environment steps,
                and a leg ends with the first rollout after so many. Each leg begins with the environments reset, so
                let it span many episodes.

        Raises:
            CheckpointError: a checkpoint could not be written or read; earlier ones are untouched.
            RunLockedError: another process trains with these checkpoints.
            TrainingInterrupted: with ``checkpoints``, Ctrl-C or SIGTERM; what was learned is saved.
            ConfigError: not one round fits.
            DataError: episodes of different lengths (see ``allow_variable_horizon``).
            TrainingDivergedError: the discriminator's loss is not finite.
        """
        n_rounds = total_timesteps // self.gen_train_timesteps
        if n_rounds < 1:
            raise ConfigError(
                expected=f"`total_timesteps` of at least a round, {self.gen_train_timesteps} steps",
                got=str(total_timesteps),
                do="train for longer, or make the learner with a smaller n_steps",
            )
        wishes = RoundsWishes(n_rounds, callback, learner_callback, progress_bar, checkpoints)
        Rounds(self, wishes).make()

    # --- state ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Learner, reward net and its optimiser, rows of both, counters and the random generator."""
        assert self._expert is not None
        return {
            "learner": learner_state(self.gen_algo),
            "reward_net": dict(self._reward_net.state_dict()),
            "disc_optimizer": self.disc_optimizer.state_dict(),
            "expert": self._expert.state(),
            "payment": self._payment.state(),
            "horizon": self._horizon,
            "n_disc_updates": self.n_disc_updates,
            "n_rounds": self.n_rounds,
            "rng": generator_state(self.rng),
        }

    def restore(self, state: Mapping[str, Any], folder: Path) -> None:
        """Become what was saved; learner, reward net and demonstrations are made again as they were.

        Raises:
            CorruptFileError: the state is not one of adversarial imitation.
            CheckpointError: it belongs to another learner or reward net.
        """
        assert self._expert is not None
        restore_learner(self.gen_algo, state["learner"])
        try:
            self._reward_net.load_state_dict(state["reward_net"])
        except RuntimeError as err:
            raise CheckpointError(
                expected="the parameters of this reward net", got=str(err)[:200], do="make it as it was made then"
            ) from err
        restore_optimizer(self.disc_optimizer, state["disc_optimizer"])
        self._expert.restore(state["expert"])
        self._payment.restore(state["payment"])
        self._horizon = state["horizon"]
        self.n_disc_updates, self.n_rounds = state["n_disc_updates"], state["n_rounds"]
        self.rng = generator_from(state["rng"])

    def load(self, path: AnyPath) -> None:
        """Become the trainer that ``save`` wrote, or the newest checkpoint of a run; this one is made like that one.

        The next ``train`` begins with environments reset.

        Raises:
            MissingFileError: nothing there.
            CorruptFileError: truncated or altered.
            CheckpointError: of another trainer, learner or reward net.
        """
        checkpoint = read_checkpoint(latest(path) or path, kind=type(self).__name__)
        with using(checkpoint.path):
            self.restore(checkpoint.state["trainer"], checkpoint.path)
        self.gen_algo._last_obs = None
        self._payment.begin_anew()

    def _own_identity(self) -> dict[str, Any]:
        """What a subclass adds to what a run in legs is."""
        return {}


def _generator(rng: np.random.Generator | int | None) -> np.random.Generator:
    if rng is None:
        seed = make_seeds(np.random.default_rng())
        _log.warning(
            "no rng was given, and the learner has no seed: drew %d; pass rng=%d to repeat this run", seed, seed
        )
        return np.random.default_rng(seed)
    return np.random.default_rng(rng)


def _summaries(log_dir: AnyPath) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as err:
        raise MissingExtraError("tensorboard", "tensorboard") from err
    return SummaryWriter(str(parse_path(log_dir) / "summary"))
