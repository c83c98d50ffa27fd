from __future__ import annotations

import numpy as np
import torch
from torch import nn

from coevo_ray.config import TrainConfig
from coevo_ray.training.loop.descent import averaged, make_optimizer, set_rate


def test_averaged_weights_are_those_of_a_slow_loop_buffers_too() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = averaged(network, 0.9)
    kept: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = {}
    for step in range(6):
        network(torch.randn(8, 3))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update_parameters(network)
        for name, tensor in network.state_dict().items():
            now = tensor.double().numpy()
            kept[name] = now.copy() if step == 0 else 0.9 * kept[name] + 0.1 * now
    for name, tensor in average.module.state_dict().items():
        if tensor.is_floating_point():
            assert np.allclose(tensor.numpy(), kept[name], atol=1e-5), name


def test_optimizers_take_their_settings() -> None:
    weights = [nn.Parameter(torch.zeros(2))]
    settings = {"learning_rate": 0.3, "momentum": 0.8, "weight_decay": 0.01}
    sgd = make_optimizer(TrainConfig.model_validate(settings), weights)
    adam = make_optimizer(TrainConfig.model_validate({**settings, "optimizer": "adamw"}), weights)
    assert isinstance(sgd, torch.optim.SGD)
    assert isinstance(adam, torch.optim.AdamW)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"], adam.defaults["betas"][0]) == (0.8, True, 0.8)
    for optimizer in (sgd, adam):
        assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.3, 0.01)
        set_rate(optimizer, 0.05)
        assert [group["lr"] for group in optimizer.param_groups] == [0.05]
    plain = make_optimizer(TrainConfig.model_validate({"momentum": 0.0}), weights)
    assert not plain.defaults["nesterov"]
