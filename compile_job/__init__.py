"""Export a model for Neuron inside its serving container and publish the artifact to S3.

``python3 -m compile_job --job job.json`` runs on a compile host (Python 3.10 or newer, standard library and boto3).
The job holds no secrets::

    {
      "facts": {                            all texts; everything that goes into compilation
        "engine": "tgi-neuronx", "engine_version": "0.0.25",
        "model_id": "mistralai/Mixtral-8x7B-Instruct-v0.1", "model_revision": "<40 hex digits, or main>",
        "instance_family": "inf2", "tensor_parallel_degree": "8",
        "batch_size": "1", "sequence_length": "1024", "dtype": "fp16"
      },
      "bucket": "...",
      "prefix": "compiled/<slug>/<key>/",   must be what the facts give
      "image": "<serving image>",           or "none" with the runner "process"
      "runner": "docker",                   or "process": the export runs on this host as it is
      "weights": {
        "source": "hub", "model_id": "...", "revision": "...",
        "token_secret_arn": "..."           or "" for a model that needs no token
      },                                    or {"source": "directory", "path": "..."}
      "devices": 6,                         Neuron devices expected; 0: do not look
      "export_command": ["optimum-cli", "export", "neuron", "--model", "{model}", ..., "{output}"],
      "work_dir": "/var/lib/modelzone/compile",
      "min_free_gib": 300,
      "min_memory_gib": 0,                  optional; 0: do not look
      "region": "us-east-1"
    }

In the export command ``{model}``, ``{output}`` and ``{python}`` stand for the snapshot of the weights, the folder to
write, and the interpreter. The program prints one line of JSON for the start and the end of each step, and passes on
what the container prints. It ends with 0 when the artifact is published or was there already, 1 when a step failed (in
one line on standard error), 2 for a wrong job, and 143 when it was stopped by SIGTERM. Nothing counts as published
until ``manifest.json`` is there, and that is written last. Run again, it goes on where it was stopped: weights that are
there are not downloaded again, objects that are there with the same checksum are not uploaded again.
"""
