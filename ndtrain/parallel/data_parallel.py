"""When buckets travel over the data axis: blocking, or behind backward, update and next forward.

    traffic = BucketTraffic(model, buckets, shards, runtime, in_background=True)
    traffic.arm()          # before the last micro-batch's backward
    loss.backward()        # each bucket's reduce-scatter starts when its last gradient is there
    traffic.reduce()       # waits; every bucket now has `own_gradient`
    traffic.update(norm, step)   # each all-gather starts when its bucket is updated; each module
                                 # of the next forward waits for its own before it computes
    traffic.finish()       # before anybody else reads the parameters (a save)

What waits for what is a schedule (`overlap/buckets.py`). Both forms make the same collectives on
the same buffers: the numbers are equal bit for bit. In the background an embedding's rows come once
more, ahead of the whole (`row_traffic.py`).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from ndtrain.models.qwen3.model import Qwen3
from ndtrain.overlap.buckets import bucket_schedule, update_order
from ndtrain.overlap.unfold import Unfolding
from ndtrain.parallel.bucket import Bucket
from ndtrain.parallel.gradients import sum_replicated_gradients
from ndtrain.parallel.local_modules import region_of
from ndtrain.parallel.row_traffic import RowTraffic, row_traffic
from ndtrain.parallel.shard import Shard
from ndtrain.runtime.runtime import Runtime


class BucketTraffic:
    def __init__(
        self,
        model: Qwen3,
        buckets: Sequence[Bucket],
        shards: Mapping[str, Shard],
        runtime: Runtime,
        in_background: bool,
        serial: bool = False,
    ) -> None:
        """Adds hooks to the model's parameters, and if in_background to its modules.

        serial: the schedule is run one node at a time.
        """
        self._buckets = buckets
        self._shards = shards
        self._runtime = runtime
        self._in_background = in_background and runtime.mesh.data.size > 1
        self._serial = serial or not self._in_background
        members = [[member.name for member in bucket.members] for bucket in buckets]
        self._whole, self._order = completion_order(members, shards)
        self._rows = row_traffic(model, buckets, runtime)
        self._needed_last = () if self._rows is None else (self._rows.index,)
        self.schedule = bucket_schedule(
            self._order, self._in_background, needed_last=self._needed_last
        )
        self._has_fetched = False  # the rows that the forward since the update began with
        self._reducing: Unfolding | None = None  # of the step whose gradients come in
        self._gathering: Unfolding | None = None  # of the step whose weights go out
        self._armed = False
        self._missing: list[int] = []
        self._complete: set[int] = set()
        self._hook_parameters(model)
        if self._in_background:
            self._hook_modules(model)

    @property
    def extra_bytes(self) -> int:
        """Held in backward because buckets travel behind it: the reduced gradients of own parts."""
        if not self._in_background:
            return 0
        return sum(bucket.master.nbytes for bucket in self._buckets)

    @property
    def under_way(self) -> list[str]:
        """Communications that nobody has waited for yet."""
        steps = (self._reducing, self._gathering)
        return [name for step in steps if step is not None for name in step.under_way]

    def arm(self) -> None:
        """The next backward is the step's last: its gradients complete the buckets."""
        self._armed = True
        self._missing = [len(bucket.members) for bucket in self._buckets]
        self._complete = set()
        places = {f"gather_{index}": bucket.values for index, bucket in enumerate(self._buckets)}
        axis, serial = self._runtime.mesh.data, self._serial
        rows = self._rows
        means = {} if rows is None else {f"scatter_{rows.index}": rows.reduce}
        schedule, runtime = self.schedule, self._runtime
        self._reducing = Unfolding(schedule, runtime, axis, serial, places, means)

    def reduce(self) -> None:
        """Leaves in each bucket's `own_gradient` the sum over all ranks that hold the range."""
        if not self._armed:
            self.arm()
        self._armed = False
        late = [index for index in self._order if index not in self._complete]
        gradients = {
            member.name: self._buckets[index].view(self._buckets[index].gradients, member)
            for index in late
            for member in self._buckets[index].members
        }
        sum_replicated_gradients(gradients, self._shards, self._runtime)
        for index in late:
            self._completed(index)
        assert self._reducing is not None
        self._reducing.begin("norm")
        for index, bucket in enumerate(self._buckets):
            bucket.master.grad = self._reducing.value(f"scatter_{index}")

    def update(self, norm: Tensor, step: Callable[[int], None]) -> None:
        """Each bucket's update while the one before is gathered; empties the gradients.

        step: updates the master weights of a bucket from its `own_gradient`.
        """
        self.finish()  # nothing to wait for, unless there was no forward since the last update
        unfolding, self._reducing = self._reducing, None
        assert unfolding is not None, "gradients are reduced first"
        self._gathering = unfolding
        unfolding.done("norm", norm)
        self._has_fetched = False
        for index in update_order(len(self._buckets), self._needed_last):
            bucket = self._buckets[index]
            unfolding.begin(f"update_{index}")
            with self._runtime.compute(f"buckets.update_{index}"):
                step(index)
                bucket.master.grad = None
                bucket.gradients.zero_()
                updated = bucket.updated()
            unfolding.done(f"update_{index}", updated)

    def discard(self) -> None:
        """Forgets the gradients of a step that was refused."""
        for bucket in self._buckets:
            bucket.master.grad = None
            bucket.gradients.zero_()
        self._reducing = None

    def finish(self) -> None:
        """Waits for every gather that is on its way."""
        for index in range(len(self._buckets)):
            self._wait(index)
        self._gathering = None

    def _wait(self, index: int) -> None:
        if self._gathering is not None:
            self._gathering.begin(f"forward_{index}")

    def _completed(self, index: int) -> None:
        assert self._reducing is not None
        self._complete.add(index)
        bucket = self._buckets[index]
        self._reducing.done(f"gradients_{index}", bucket.gradients, end=bucket.late_gradient)

    def _hook_parameters(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        for index, bucket in enumerate(self._buckets):
            for member in bucket.members:
                total = bucket.view(bucket.gradients, member)
                hook = self._accumulate(index, total)
                parameters[member.name].register_post_accumulate_grad_hook(hook)

    def _accumulate(self, index: int, total: Tensor) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            assert parameter.grad is not None
            with self._runtime.compute(f"buckets.gradients_{index}"):
                total.add_(parameter.grad)
            parameter.grad = None
            if not self._armed:
                return
            self._missing[index] -= 1
            if self._missing[index] == 0 and index in self._whole:
                self._completed(index)

        return hook

    def _hook_modules(self, model: Qwen3) -> None:
        """Each module waits for its own weights, the last norm for all: the head has no hook.

        The attention core waits for its norms': nothing of it may begin before, compiled or not.
        """
        needed: dict[nn.Module, list[int]] = defaultdict(list)
        for index, bucket in enumerate(self._buckets):
            names = {region_of(member.name.rpartition(".")[0]) for member in bucket.members}
            for name in names:
                needed[model.get_submodule(name)].append(index)
        if self._rows is not None:
            del needed[model.embedding]
            model.embedding.register_forward_pre_hook(self._fetching(self._rows))
        for module, indices in needed.items():
            module.register_forward_pre_hook(self._waiting_for(indices))
        model.norm.register_forward_pre_hook(self._waiting_for(list(range(len(self._buckets)))))

    def _fetching(self, rows: RowTraffic) -> Callable[..., None]:
        """What the first forward begins with comes ahead; the next ones wait for the whole."""

        def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
            if self._gathering is None:
                return
            if self._has_fetched:
                self._wait(rows.index)
            else:
                self._has_fetched = True
                rows.fetch(*inputs)

        return hook

    def _waiting_for(self, indices: list[int]) -> Callable[..., None]:
        def hook(*_: object) -> None:
            for index in indices:
                self._wait(index)

        return hook


def completion_order(
    members: Sequence[Sequence[str]], shards: Mapping[str, Shard]
) -> tuple[set[int], list[int]]:
    """(buckets that backward completes, all buckets in the order of their completion).

    members: parameters of each bucket. Gradients that are still sums of parts over tensor ranks
    have to be added up behind backward: their buckets come last.
    """
    whole = [
        index
        for index, names in enumerate(members)
        if all(part.num_replicas == 1 for name in names for part in shards[name].slices)
    ]
    late = [index for index in range(len(members)) if index not in whole]
    return set(whole), [*whole, *late]
