"""The optimizer Muon, with AdamW for what is no matrix. Explained in 03_training."""

import torch


def orthogonal(matrix):
    """About U V^T of a matrix U S V^T: five steps of Jordan's polynomial take S towards 1."""
    x = matrix / (matrix.norm() + 1e-7)
    x = x.T if len(x) > x.shape[1] else x  # the short side first
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x.T if len(matrix) > matrix.shape[1] else x


class Muon(torch.optim.AdamW):
    """AdamW for biases and thin matrices; others move by orthogonal ones (Jordan et al. 2024).

    With the momentum of a weight, as a matrix, decomposed into U S V^T, the step is about U V^T:
    every direction moves equally far, rare ones too. Its size is that of AdamW's steps (Liu et al.
    2025), so that one learning rate suits both.
    """

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.ndim < 2 or min(weight.flatten(1).shape) <= 16:
                    continue
                state = self.state[weight]
                if not state:  # AdamW looks for its count of steps when it loads a state
                    state |= {"step": weight.new_zeros(()), "momentum": torch.zeros_like(weight)}
                momentum = state["momentum"].lerp_(weight.grad, 0.05)
                move = orthogonal(weight.grad.lerp(momentum, 0.95).flatten(1))
                size = 0.2 * group["lr"] * max(move.shape) ** 0.5
                weight.sub_(size * move.view_as(weight))
                weight.grad = None  # so that AdamW leaves it alone
        super().step()
