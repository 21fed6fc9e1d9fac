"""When buckets travel over the data axis: blocking, or behind backward and the next forward.

    traffic = BucketTraffic(model, buckets, shards, runtime, in_background=True)
    traffic.arm()          # before the last micro-batch's backward
    loss.backward()        # each bucket's reduce-scatter starts when its last gradient is there
    traffic.reduce()       # waits; every bucket now has `own_gradient`
    ...                    # the optimizer updates the master weights
    traffic.publish()      # all-gathers start; each block waits for its own before it computes
    traffic.finish()       # before anybody else reads the parameters (a save)

Both forms make the same collectives on the same buffers: the numbers are equal bit for bit.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from ndtrain.models.qwen3.model import Qwen3
from ndtrain.parallel.bucket import Bucket
from ndtrain.parallel.gradients import sum_replicated_gradients
from ndtrain.parallel.shard import Shard
from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.runtime import Runtime
from ndtrain.runtime.streams import Pending, Work


class BucketTraffic:
    def __init__(
        self,
        model: Qwen3,
        buckets: Sequence[Bucket],
        shards: Mapping[str, Shard],
        runtime: Runtime,
        in_background: bool,
    ) -> None:
        """Adds hooks to the model's parameters, and if in_background to its modules."""
        self._buckets = buckets
        self._shards = shards
        self._runtime = runtime
        self._in_background = in_background and runtime.mesh.data.size > 1
        self._armed = False
        self._missing: dict[str, int] = {}
        self._reducing: dict[str, Pending] = {}
        self._gathering: dict[str, Pending] = {}
        self._hook_parameters(model)
        if self._in_background:
            self._hook_modules(model)

    @property
    def extra_bytes(self) -> int:
        """Held in backward because buckets travel behind it: the reduced gradients of own parts."""
        if not self._in_background:
            return 0
        return sum(bucket.master.nbytes for bucket in self._buckets)

    def arm(self) -> None:
        """The next backward is the step's last: its gradients complete the buckets."""
        if self._in_background:
            self._armed = True
            self._missing = {bucket.name: len(bucket.members) for bucket in self._buckets}

    def reduce(self) -> None:
        """Leaves in each bucket's `own_gradient` the sum over all ranks that hold the range."""
        self._armed = False
        whole_buckets = [bucket for bucket in self._buckets if bucket.name not in self._reducing]
        gradients = {
            member.name: bucket.view(bucket.gradients, member)
            for bucket in whole_buckets
            for member in bucket.members
        }
        sum_replicated_gradients(gradients, self._shards, self._runtime)
        for bucket in self._buckets:
            pending = self._reducing.pop(bucket.name, None)
            if pending is None:
                bucket.master.grad = self._scatter(bucket)(self._runtime.collectives)
            else:
                bucket.master.grad = pending.wait()

    def publish(self) -> None:
        """Own master weights -> every rank's parameters; empties the gradients."""
        for bucket in self._buckets:
            bucket.master.grad = None
            bucket.gradients.zero_()
            if bucket.values.dtype != bucket.master.dtype:
                bucket.own_values.copy_(bucket.master)
        # The last bucket holds the first layers, which the next forward needs first.
        for bucket in reversed(self._buckets):
            work = self._gather(bucket)
            if self._in_background:
                stream = self._runtime.streams["gather"]
                self._gathering[bucket.name] = stream.submit(bucket.name, work)
            else:
                work(self._runtime.collectives)

    def finish(self) -> None:
        for bucket in self._buckets:
            self._wait(bucket)

    def _wait(self, bucket: Bucket) -> None:
        pending = self._gathering.pop(bucket.name, None)
        if pending is not None:
            pending.wait()

    def _scatter(self, bucket: Bucket) -> Work:
        def work(collectives: Collectives) -> Tensor:
            axis = self._runtime.mesh.data
            return collectives.reduce_scatter(bucket.gradients, axis, bucket.name, "scatter")

        return work

    def _gather(self, bucket: Bucket) -> Work:
        def work(collectives: Collectives) -> Tensor:
            axis = self._runtime.mesh.data
            return collectives.all_gather(
                bucket.own_values, axis, bucket.name, "gather", out=bucket.values
            )

        return work

    def _hook_parameters(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        for bucket in self._buckets:
            for member in bucket.members:
                total = bucket.view(bucket.gradients, member)
                hook = self._accumulate(bucket, total)
                parameters[member.name].register_post_accumulate_grad_hook(hook)

    def _accumulate(self, bucket: Bucket, total: Tensor) -> Callable[[Tensor], None]:
        # A gradient that is still a sum of parts over tensor ranks has to be completed first.
        is_whole = all(
            part.num_replicas == 1
            for member in bucket.members
            for part in self._shards[member.name].slices
        )

        def hook(parameter: Tensor) -> None:
            assert parameter.grad is not None
            total.add_(parameter.grad)
            parameter.grad = None
            if not self._armed:
                return
            self._missing[bucket.name] -= 1
            if self._missing[bucket.name] == 0 and is_whole:
                stream = self._runtime.streams["scatter"]
                self._reducing[bucket.name] = stream.submit(bucket.name, self._scatter(bucket))

        return hook

    def _hook_modules(self, model: Qwen3) -> None:
        """Embedding and blocks wait for their own buckets, the last norm for all."""
        needed: dict[nn.Module, list[Bucket]] = defaultdict(list)
        for bucket in self._buckets:
            for name in {_stage(member.name) for member in bucket.members}:
                needed[model.get_submodule(name)].append(bucket)
        for module, buckets in needed.items():
            module.register_forward_pre_hook(self._waiting_for(buckets))
        model.norm.register_forward_pre_hook(self._waiting_for(list(self._buckets)))

    def _waiting_for(self, buckets: list[Bucket]) -> Callable[..., None]:
        def hook(*_: object) -> None:
            for bucket in buckets:
                self._wait(bucket)

        return hook


def _stage(parameter: str) -> str:
    """The module whose forward first needs the parameter: its block, or the module itself."""
    parts = parameter.split(".")
    return ".".join(parts[:2]) if parts[0] == "layers" else parts[0]
