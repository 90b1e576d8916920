"""transformers' Trainer with interrupt and resume, and an error as soon as training diverges to NaN or infinity."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from softmaxkit import processes
from softmaxkit.models.divergence import Divergence, first_not_finite
from softmaxkit.models.patch import layers

Progress = Callable[[int, int], None]
"""Called with the number of steps done and their total."""


class Interrupted(Exception):
    """The user stopped the training, which has saved a checkpoint of its last step."""


def on_gpu() -> dict[str, Any]:
    """Return the training arguments for a GPU: mixed precision if it supports bfloat16."""
    return {"bf16": torch.cuda.is_bf16_supported(including_emulation=False)}


def training_arguments(folder: Path, steps: int, learning_rate: float, seed: int, **further: Any) -> TrainingArguments:
    """Return the arguments common to all training here: linear decay, checkpoints only at chosen steps, no output."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        seed=seed,
        data_seed=seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        log_level="error",
        logging_nan_inf_filter=False,
        # Without this, several processes without a GPU would each train on their own.
        use_cpu=processes.count() > 1 and not torch.cuda.is_available(),
        average_tokens_across_devices=False,  # losses are means over equal shares of a batch
        **(on_gpu() if torch.cuda.is_available() else {}),
        **further,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # with several GPUs, a step would consume several batches
    return arguments


CHECK_INTERVAL = 50
"""Steps between two checks for NaN and infinity on a GPU."""


class MethodTrainer(Trainer):
    """The Trainer, with a separate learning rate for the methods' parameters.

    Args:
        constants_rate: learning rate of the methods' parameters, as a multiple of the model's.
        homotopy: fraction of the steps over which exact softmax turns gradually into the method, if the method supports
            it.
        stops: steps at which a checkpoint is written.
        progress: called at every step.
        arguments: arguments of the Trainer.
    """

    def __init__(
        self,
        constants_rate: float = 1.0,
        homotopy: float = 0.0,
        stops: set[int] | None = None,
        progress: Progress | None = None,
        **arguments: Any,
    ) -> None:
        self.constants_rate = constants_rate
        self.watch = _Watch(stops or set(), homotopy, progress)
        super().__init__(callbacks=[self.watch], **arguments)
        alone_on_gpu = self.args.device.type == "cuda" and processes.count() == 1
        self.divergence = Divergence(self.args.device) if alone_on_gpu else None
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, model: Any = None) -> Any:
        """Create the optimiser, with the methods' parameters in a last group of their own."""
        optimized: Any = model or self.model
        optimizer = super().create_optimizer(model)
        own = {id(parameter) for module in layers(optimized).values() for parameter in module.parameters()}
        if own and len(optimizer.param_groups) == 2:
            moved = []
            for group in optimizer.param_groups:
                moved += [parameter for parameter in group["params"] if id(parameter) in own]
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
            optimizer.add_param_group(self._own_group(optimizer.param_groups[-1], moved))
            optimizer.register_load_state_dict_pre_hook(self._with_own_group)
        return optimizer

    def _own_group(self, other: dict[str, Any], parameters: list[Any]) -> dict[str, Any]:
        """Return the group of the methods' parameters, with the settings of another group but their own rate."""
        rates: dict[str, Any] = {
            name: self.constants_rate * other[name] for name in ("lr", "initial_lr") if name in other
        }
        return {**other, **rates, "params": parameters, "weight_decay": 0.0}

    def _with_own_group(self, optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
        """Add the methods' parameters, as new ones, to the optimiser's state of a branch whose method has none."""
        groups = state["param_groups"]
        if len(groups) == len(optimizer.param_groups):
            return state
        first = sum(len(group["params"]) for group in groups)
        numbers = range(first, first + len(optimizer.param_groups[-1]["params"]))
        return {**state, "param_groups": [*groups, self._own_group(groups[-1], [*numbers])]}

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
        """Compute the loss.

        Raises:
            FloatingPointError: it is NaN or infinite; the message names the layer in which that begins.
        """
        result = super().compute_loss(model, inputs, *arguments, **named)
        loss = result[0] if isinstance(result, tuple) else result
        if not model.training:
            return result
        if self.divergence is not None:
            self.divergence.see("the loss", self.state.global_step + 1, [loss.detach()])
        elif processes.in_any_process(not torch.isfinite(loss).all()):
            where = first_not_finite(self.accelerator.unwrap_model(model), inputs)
            self._stop(f"the loss is {loss.detach().item():g}", where)
        return result

    def training_step(self, model: Any, *arguments: Any, **named: Any) -> Tensor:
        """Compute the gradients.

        On a GPU they are checked only at every `CHECK_INTERVAL`-th step and before a checkpoint is saved, because
        reading the result synchronises with the device.

        Raises:
            FloatingPointError: one is NaN or infinite; the message names the last such parameter in the order of the
                model, where backpropagation starts.
        """
        loss = super().training_step(model, *arguments, **named)
        parameters = self.accelerator.unwrap_model(model).named_parameters()
        if self.divergence is not None:
            self._check(self.divergence, dict(parameters))
            return loss
        gradients = ((name, parameter.grad) for name, parameter in parameters)
        wrong = [name for name, gradient in gradients if gradient is not None and not torch.isfinite(gradient).all()]
        if wrong:
            self._stop("a gradient is not finite", wrong[-1])
        return loss

    def _check(self, divergence: Divergence, parameters: dict[str, nn.Parameter]) -> None:
        step = self.state.global_step + 1
        named = {name: x.grad for name, x in parameters.items() if x.grad is not None}
        divergence.see("a gradient", step, list(named.values()))
        if step % CHECK_INTERVAL and step not in self.watch.stops and step < self.state.max_steps:
            return
        for what, (first, places) in sorted(divergence.first_steps().items(), key=lambda entry: entry[1][0]):
            names = list(named)
            where = names[max(places)] if what == "a gradient" else "the loss itself"
            self._stop(f"{what} is not finite", where, first)

    def _stop(self, what: str, where: str, step: int | None = None) -> NoReturn:
        last = self._last_checkpoint() if processes.is_first() else None
        saved = f"; the last checkpoint is {last}" if last else ""
        raise FloatingPointError(
            f"training diverged: {what} at step {step or self.state.global_step + 1}, beginning in {where}{saved}; "
            "try a lower learning rate, or other start values"
        )

    def run(self, branch: Path | None = None) -> list[dict[str, Any]]:
        """Train, resuming from the last checkpoint in the output folder if there is one.

        Args:
            branch: if the folder has no checkpoint, one of another run to continue from, with its optimiser and
                schedule; parameters of a method may be new.

        Returns:
            The Trainer's log history.

        Raises:
            Interrupted: after Ctrl-C; the same call resumes the training.
            FloatingPointError: the loss became NaN or infinite.
        """
        model: Any = self.model
        last = processes.broadcast(self._last_checkpoint() if processes.is_first() else None)
        try:
            with self.watch.interruptible():
                self.train(resume_from_checkpoint=last or (str(branch) if branch else None))
        finally:
            for module in layers(model).values():
                module.set_homotopy(1.0)
        if self.state.global_step < self.state.max_steps:
            raise Interrupted(f"stopped at step {self.state.global_step} of {self.state.max_steps}")
        logged: list[dict[str, Any]] = self.state.log_history
        return logged

    def _last_checkpoint(self) -> str | None:
        """Return the last complete checkpoint; delete later ones that were left incomplete."""
        folder = Path(str(self.args.output_dir))
        while folder.is_dir() and (last := get_last_checkpoint(str(folder))) is not None:
            if (Path(last) / "trainer_state.json").is_file():  # this file is written last
                return str(last)
            shutil.rmtree(last)
        return None


class _Watch(TrainerCallback):
    """Save at chosen steps and on Ctrl-C, report progress, and log the values of the methods' parameters."""

    def __init__(self, stops: set[int], homotopy: float, progress: Progress | None) -> None:
        self.stops, self.homotopy, self.progress, self.interrupted = stops, homotopy, progress, False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Make Ctrl-C finish the current step and save instead of aborting; only the main thread handles signals."""
        self.interrupted = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(*_: Any) -> None:
            if self.interrupted:
                raise KeyboardInterrupt  # a second Ctrl-C aborts at once
            self.interrupted = True

        previous = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # A schedule loaded from a branch has no rate for the methods' parameters if its own method has none.
        kwargs["lr_scheduler"].base_lrs = [group["initial_lr"] for group in kwargs["optimizer"].param_groups]

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.homotopy:
            for module in layers(kwargs["model"]).values():
                module.set_homotopy(min(1.0, state.global_step / max(1.0, self.homotopy * state.max_steps - 1)))

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.progress:
            self.progress(state.global_step, state.max_steps)
        self.interrupted = processes.in_any_process(self.interrupted)
        if state.global_step in self.stops or self.interrupted:
            control.should_save = True
        if self.interrupted:
            control.should_training_stop = True

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "eval_loss" not in logs:
            return
        own = {
            layer: {name: value.detach().flatten().tolist() for name, value in module.named_parameters()}
            for layer, module in layers(kwargs["model"]).items()
        }
        if any(own.values()):
            entry: dict[str, Any] = state.log_history[-1]
            entry["constants"] = own
