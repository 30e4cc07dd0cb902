"""What PEFT makes of an adapter's folder, for tests/peft.rs to compare with.

Standard input is one JSON object:
  {"command": "evaluate", "folder": ..., "adapter": ..., "rows": [[id, ...], ...]}
      prints {"log_probs": [[...], ...]}: per row the log-probability of each id but the first
  {"command": "make", "folder": ..., "adapter": ..., "targets": [...], "rank": ..., "alpha": ...}
      saves an adapter of that model whose factors are all random with `save_pretrained`
  {"command": "load", "folder": ..., "adapter": ...}
      prints {"error": the first line of what PEFT says, or null}
"""

import json
import sys
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM


def base(request):
    return AutoModelForCausalLM.from_pretrained(request["folder"], dtype=torch.float32).eval()


def evaluate(request):
    # PEFT only warns of keys that it does not find, and leaves B at zero.
    warnings.filterwarnings("error", message=".*adapter keys.*")
    model = PeftModel.from_pretrained(base(request), request["adapter"]).eval()
    log_probs = []
    with torch.no_grad():
        for row in request["rows"]:
            ids = torch.tensor([row])
            rows = torch.log_softmax(model(ids).logits[0].double(), dim=-1)
            log_probs.append(rows[:-1].gather(1, ids[0, 1:, None])[:, 0].tolist())
    return {"log_probs": log_probs}


def make(request):
    torch.manual_seed(2)
    config = LoraConfig(
        r=request["rank"], lora_alpha=request["alpha"], target_modules=request["targets"], task_type="CAUSAL_LM"
    )
    model = get_peft_model(base(request), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(request["adapter"])
    return {}


def load(request):
    try:
        PeftModel.from_pretrained(base(request), request["adapter"])
    except ValueError as error:
        return {"error": str(error).splitlines()[0]}
    return {"error": None}


if __name__ == "__main__":
    order = json.load(sys.stdin)
    print(json.dumps({"evaluate": evaluate, "make": make, "load": load}[order["command"]](order)))
