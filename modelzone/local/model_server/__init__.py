"""A model server that stands in for the container TGI neuronx 0.0.25 (TGI 2.1.1) on a machine without Neuron devices.

It runs a real model, a small Mixtral, on the CPU with NumPy: `python -m modelzone.local.model_server`.
The shipped weights in `tiny_mixtral/` are made by `tools/tiny_mixtral/train.py`.

Where the router of TGI 2.1.1 or the generator of optimum-neuron 0.0.25 have surprising ways, so has this server:

- `do_sample` must be true for sampling: a temperature alone changes nothing; without `top_k`, 50 applies.
- Without `parameters` at all, `do_sample` is true. The default of `max_new_tokens` is 100.
- `/` and `/invocations` put the prompt in front of `generated_text` unless `return_full_text` is false.
- `generated_text` ends with the end-of-sequence token's text (`</s>`) when the model ended by itself.
- A stop sequence stays in the text and ends the answer with `finish_reason` `length`.
- A stream answers 200 and reports even validation errors as an event; there is no `[DONE]`.
- `details.prefill` is always empty; `typical_p`, `frequency_penalty`, `watermark` and `grammar` have no effect.

It differs where that container keeps information back: log probabilities (there always 0), `top_tokens` (there empty),
`seed` (there null) are the real ones, as on TGI's other devices.
"""
