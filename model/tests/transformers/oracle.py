"""What PyTorch and transformers make of a model folder, for tests/transformers.rs to compare with.

Standard input is one JSON object:
  {"command": "evaluate", "folder": ..., "rows": [[id, ...], ...], "chats": [{"messages": ..., "tools": ...}, ...]}
      prints {"log_probs": [[...], ...], "chat_ids": [[...], ...]}: per row the log-probability of each id but the first
  {"command": "save", "folder": ..., "pattern": ..., "published": true or false}
      saves a small random model there with `save_pretrained`, in the published names or in those in memory
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, NemotronHConfig, NemotronHForCausalLM


def evaluate(request):
    # The grouped product of experts needs strides that small models do not have.
    model = AutoModelForCausalLM.from_pretrained(
        request["folder"], dtype=torch.float32, experts_implementation="eager"
    ).eval()
    log_probs = []
    with torch.no_grad():
        for row in request["rows"]:
            ids = torch.tensor([row])
            rows = torch.log_softmax(model(ids).logits[0].double(), dim=-1)
            log_probs.append(rows[:-1].gather(1, ids[0, 1:, None])[:, 0].tolist())
    chat_ids = []
    if request["chats"]:
        tokenizer = AutoTokenizer.from_pretrained(request["folder"])
        for chat in request["chats"]:
            text = tokenizer.apply_chat_template(
                chat["messages"], tools=chat["tools"], add_generation_prompt=True, tokenize=False
            )
            chat_ids.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    return {"log_probs": log_probs, "chat_ids": chat_ids}


def save(request):
    torch.manual_seed(1)
    # transformers cuts off the time step at its smallest initial value, the family's own code does not.
    config = NemotronHConfig(
        time_step_min=1e-30,
        hybrid_override_pattern=request["pattern"],
        vocab_size=90, hidden_size=32, intermediate_size=48,
        mamba_num_heads=4, mamba_head_dim=12, ssm_state_size=8, n_groups=2, chunk_size=16, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=20,
        moe_shared_expert_intermediate_size=24, initializer_range=0.3,
    )
    model = NemotronHForCausalLM(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(request["folder"], save_original_format=request["published"])
    return {}


if __name__ == "__main__":
    order = json.load(sys.stdin)
    print(json.dumps({"evaluate": evaluate, "save": save}[order["command"]](order)))
