"""Program of each process in the sharding test: prints its share of the weights and checks gather and scatter."""

import torch
from accelerate import Accelerator

from distill.models.registry import create_model
from distill.training.sharding import gather, scatter, shard, unsharded

accelerator = Accelerator(cpu=True)
torch.manual_seed(0)
model = create_model("teacher/salfom:micro").network
before = {key: value.clone() for key, value in model.state_dict().items()}
sharded = shard(model, accelerator.device, accelerator.num_processes)
kept = sum(weight.to_local().numel() for weight in sharded.parameters())  # type: ignore[attr-defined]

with torch.no_grad():
    for weight in sharded.parameters():
        weight.add_(1)
gather(sharded, model)
names = {name for name, _ in model.named_parameters()}
moved = all(torch.equal(value, before[key] + (key in names)) for key, value in model.state_dict().items())
moved = moved == accelerator.is_main_process  # the unsharded models of the other processes do not change
model.load_state_dict(before)
scatter(model, sharded)
back = all(torch.equal(unsharded(value), before[key]) for key, value in sharded.state_dict().items())
print(f"rank {accelerator.process_index}: keeps {kept}, moved {moved}, back {back}")
