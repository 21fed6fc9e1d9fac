"""The operations whose cost is not that of their PyTorch decomposition, one file each.

Each is a torch custom op with autograd, a meta implementation and a `Cost`; beside it stands a
reference in plain PyTorch. Ops know no process groups.

Under torch.compile a function here is made of PyTorch's own operations: a backend lowers those, and
cannot look into an op of ours. Attention says which of its implementations stay ops.
"""
