"""Store methods as the `quantization_config` of `config.json`, for transformers' `from_pretrained` to restore."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.models.attention import NAME
from softmaxkit.models.settings import MethodError, attach_saved, check_schema, freeze_saved, settings_of
from softmaxkit.models.switching import implementations, remember, switch_on
from softmaxkit.warning import warn


@register_quantization_config(NAME)
class SoftmaxConfig(QuantizationConfigMixin):
    """The methods in a model, as the `quantization_config` of its `config.json`.

    Args:
        quant_method: "softmaxkit".
        settings: see `softmaxkit.models.settings.Settings`.

    Raises:
        MethodError: the settings are of another schema version, or damaged.
    """

    def __init__(self, quant_method: str = NAME, **settings: Any) -> None:
        check_schema(settings, "quantization_config of config.json")
        if not isinstance(settings.get("layers"), Mapping):
            raise MethodError("quantization_config of config.json is damaged: it names no layers")
        self.quant_method = quant_method  # type: ignore[assignment]
        self.schema = settings["schema"]
        self.softmaxkit = settings.get("softmaxkit")
        self.layers: Mapping[str, Mapping[str, Any]] = settings["layers"]

    @classmethod
    def of(cls, model: PreTrainedModel, state: Mapping[str, Tensor] | None = None) -> SoftmaxConfig:
        """Return the config of a model in its current state; arguments as for `settings_of`."""
        return cls(**settings_of(model, state))


@register_quantizer(NAME)
class SoftmaxQuantizer(HfQuantizer):
    """Restore the methods of a checkpoint while transformers loads its model.

    The model is then as after `softmaxkit.apply`: transformers does not treat it as quantised, so it can be trained and
    saved.
    """

    requires_calibration = True  # it only restores saved methods; `apply` puts methods into plain models
    quantization_config: SoftmaxConfig

    def __init__(self, quantization_config: QuantizationConfigMixin, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.modules: dict[str, SoftmaxModule] = {}
        self.requested: str | None = None

    def update_attn_implementation(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """Build the model with its own attention function, for `restore`; softmaxkit's is switched on after loading."""
        if config._attn_implementation not in (None, NAME):
            self.requested = config._attn_implementation
        else:
            config._attn_implementation = None
        return config

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        self.modules = attach_saved(model, self.quantization_config.layers)
        # Earlier versions kept calibrations in config.json alone.
        ignored = list(model._keys_to_ignore_on_load_missing or [])
        model._keys_to_ignore_on_load_missing = [*ignored, rf"\.{NAME}\.calibrated$"]
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        self.remove_quantization_config(model)  # type: ignore[no-untyped-call]
        for part in model.modules():
            if isinstance(part, PreTrainedModel):
                part.config.__dict__.pop("_is_quantized", None)
        for name, module in self.modules.items():
            _bring_back(module)
            for key, parameter in module.named_parameters():
                if not getattr(parameter, "_is_hf_initialized", False):  # set by loading a weight
                    raise MethodError(f"the weights are incomplete: {name}.{NAME}.{key} is missing")
        freeze_saved(self.modules, self.quantization_config.layers)
        remember(model, switch_on(model) if self.requested is None else implementations(model))
        if self.requested is not None:
            warn(
                f"attn_implementation={self.requested!r} runs exact softmax instead of this checkpoint's method; "
                f"model.set_attn_implementation({NAME!r}) switches the method on"
            )
        return model

    def is_serializable(self) -> bool:
        """Return True: `save_pretrained` writes the methods."""
        return True

    @property
    def is_trainable(self) -> bool:
        """True: the restored model can be trained."""
        return True


def _bring_back(module: SoftmaxModule) -> None:
    """Undo the offloading of a module to CPU or disk by a `device_map`: kernels read its few numbers at any time."""
    hook = getattr(module, "_hf_hook", None)
    offloading = next((part for part in getattr(hook, "hooks", [hook]) if getattr(part, "offload", False)), None)
    if offloading is None:
        return
    from accelerate.hooks import remove_hook_from_module
    from accelerate.utils import set_module_tensor_to_device

    names = [name for name, tensor in module.state_dict().items() if tensor.is_meta and name in offloading.weights_map]
    remove_hook_from_module(module)
    for name in names:
        value = offloading.weights_map[name]
        set_module_tensor_to_device(module, name, offloading.execution_device, value=value)
        getattr(module, name)._is_hf_initialized = True
