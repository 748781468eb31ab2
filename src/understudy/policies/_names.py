"""Which classes a file may mean by a name: those listed here, or what the caller supplies. Nothing else is imported."""

from __future__ import annotations

from collections.abc import Mapping

from understudy.util.value_json import LAYER_CLASSES

_SB3 = "stable_baselines3"
_MASKABLE = "sb3_contrib.common.maskable.policies"
_RECURRENT = "sb3_contrib.common.recurrent.policies"
_OPTIMIZERS = ("ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD")

POLICY_CLASSES: Mapping[str, str] = {
    "ActorCriticPolicy": f"{_SB3}.common.policies:ActorCriticPolicy",
    "ActorCriticCnnPolicy": f"{_SB3}.common.policies:ActorCriticCnnPolicy",
    "MultiInputActorCriticPolicy": f"{_SB3}.common.policies:MultiInputActorCriticPolicy",
    "SACPolicy": f"{_SB3}.sac.policies:SACPolicy",
    "SACCnnPolicy": f"{_SB3}.sac.policies:CnnPolicy",
    "SACMultiInputPolicy": f"{_SB3}.sac.policies:MultiInputPolicy",
    "TD3Policy": f"{_SB3}.td3.policies:TD3Policy",
    "TD3CnnPolicy": f"{_SB3}.td3.policies:CnnPolicy",
    "TD3MultiInputPolicy": f"{_SB3}.td3.policies:MultiInputPolicy",
    "DQNPolicy": f"{_SB3}.dqn.policies:DQNPolicy",
    "DQNCnnPolicy": f"{_SB3}.dqn.policies:CnnPolicy",
    "DQNMultiInputPolicy": f"{_SB3}.dqn.policies:MultiInputPolicy",
    "MaskableActorCriticPolicy": f"{_MASKABLE}:MaskableActorCriticPolicy",
    "MaskableActorCriticCnnPolicy": f"{_MASKABLE}:MaskableActorCriticCnnPolicy",
    "MaskableMultiInputActorCriticPolicy": f"{_MASKABLE}:MaskableMultiInputActorCriticPolicy",
    "RecurrentActorCriticPolicy": f"{_RECURRENT}:RecurrentActorCriticPolicy",
    "RecurrentActorCriticCnnPolicy": f"{_RECURRENT}:RecurrentActorCriticCnnPolicy",
    "RecurrentMultiInputActorCriticPolicy": f"{_RECURRENT}:RecurrentMultiInputActorCriticPolicy",
    "QRDQNPolicy": "sb3_contrib.qrdqn.policies:QRDQNPolicy",
    "QRDQNCnnPolicy": "sb3_contrib.qrdqn.policies:CnnPolicy",
    "QRDQNMultiInputPolicy": "sb3_contrib.qrdqn.policies:MultiInputPolicy",
    "TQCPolicy": "sb3_contrib.tqc.policies:TQCPolicy",
    "TQCCnnPolicy": "sb3_contrib.tqc.policies:CnnPolicy",
    "TQCMultiInputPolicy": "sb3_contrib.tqc.policies:MultiInputPolicy",
    "CrossQPolicy": "sb3_contrib.crossq.policies:CrossQPolicy",
    "ARSPolicy": "sb3_contrib.ars.policies:ARSPolicy",
    "ARSLinearPolicy": "sb3_contrib.ars.policies:ARSLinearPolicy",
    "FeedForward32Policy": "understudy.policies.base:FeedForward32Policy",
    "OffsetFeedForward32Policy": "understudy.policies.base:OffsetFeedForward32Policy",
    "SAC1024Policy": "understudy.policies.base:SAC1024Policy",
    "MixturePolicy": "understudy.policies.mixture:MixturePolicy",
    "SquashedGaussianPolicy": "understudy.policies.squashed:SquashedGaussianPolicy",
    "ChunkingPolicy": "understudy.policies.chunks:ChunkingPolicy",
    "RandomPolicy": "understudy.policies.base:RandomPolicy",
    "ZeroPolicy": "understudy.policies.base:ZeroPolicy",
}
"""Policies by the short name that our files use."""

PART_CLASSES: Mapping[str, str] = {
    "FlattenExtractor": f"{_SB3}.common.torch_layers:FlattenExtractor",
    "NatureCNN": f"{_SB3}.common.torch_layers:NatureCNN",
    "CombinedExtractor": f"{_SB3}.common.torch_layers:CombinedExtractor",
    "NormalizeFeaturesExtractor": "understudy.policies.base:NormalizeFeaturesExtractor",
    "RMSpropTFLike": f"{_SB3}.common.sb2_compat.rmsprop_tf_like:RMSpropTFLike",
    **LAYER_CLASSES,
    **{name: f"torch.optim:{name}" for name in _OPTIMIZERS},
}
"""What a constructor's argument may be, besides plain values: extractors, normalisers, activations, optimisers."""

_EARLIER: Mapping[str, str] = {
    "imitation.policies.base.FeedForward32Policy": "understudy.policies.base:FeedForward32Policy",
    "imitation.policies.base.SAC1024Policy": "understudy.policies.base:SAC1024Policy",
    "imitation.policies.base.NormalizeFeaturesExtractor": "understudy.policies.base:NormalizeFeaturesExtractor",
    "imitation.util.networks.RunningNorm": "understudy.util.networks:RunningNorm",
    "imitation.util.networks.EMANorm": "understudy.util.networks:EMANorm",
}
"""Classes of imitation 1.0.1 that models on the hub were made with; ours have the same tensors."""


def place_of_policy(module: str, name: str) -> str | None:
    """Where to import a policy's class that a zip names, if it is one of those above."""
    place = f"{module}:{name}"
    return place if place in POLICY_CLASSES.values() else _EARLIER.get(f"{module}.{name}")


def place_of_part(path: str) -> str | None:
    """The same for a class in a constructor's arguments, by the dotted path that ``str`` shows."""
    if path in _EARLIER:
        return _EARLIER[path]
    module, _, name = path.rpartition(".")
    place = PART_CLASSES.get(name)
    # torch's classes live in modules below the one they are imported from, such as torch.nn.modules.activation.
    if place is None or not module.startswith(place.partition(":")[0]):
        return None
    return place
