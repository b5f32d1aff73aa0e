"""Export a model inside its serving container and publish the artifact to S3.

``python3 -m compile_job --job job.json`` runs on a compile host (Python 3.10 or newer, docker; boto3 is packaged with
it). The job holds no secrets::

    {
      "facts": {                            all texts; everything that goes into compilation
        "engine": "tgi-neuronx", "engine_version": "0.0.25",
        "model_id": "mistralai/Mixtral-8x7B-Instruct-v0.1", "model_revision": "<40 hex digits, or main>",
        "instance_family": "inf2", "tensor_parallel_degree": "8",
        "batch_size": "1", "sequence_length": "1024", "dtype": "fp16"
      },
      "bucket": "...",
      "prefix": "compiled/<slug>/<key>/",   must be what the facts give
      "image": "<serving image with its tag>",
      "image_digest": "sha256:...",         optional; "": the image that the tag names now
      "accelerator": "neuron",              or "nvidia", "none"
      "devices": 6,                         devices expected; 0: do not look
      "layout": "neuron-config-key",        what the export writes, see `compile_job.layouts`
      "weights": {
        "source": "hub",                    or "s3": the mirror alone, the hub is never asked
        "model_id": "...", "revision": "...",
        "token_secret_arn": "..."           or "" for a model that needs no token
      },
      "export_command": ["optimum-cli", "export", "neuron", "--model", "{model}", ..., "{output}"],
      "properties": {},                     optional; lines of a serving.properties
      "weights_only": false,                optional; true: end when the weights are in the mirror
      "work_dir": "/var/lib/modelzone/compile",
      "min_free_gib": 300,
      "min_memory_gib": 0,                  optional; 0: do not look
      "region": "us-east-1",
      "progress_parameter": ""              optional; SSM parameter that tells how far the job is
    }

In the export command and in the values of properties ``{model}``, ``{output}``, ``{properties}`` and ``{python}``
stand, as words of their own, for the snapshot of the weights, the folder to write, the folder with
``serving.properties`` and the interpreter; ``{batch_size}``, ``{sequence_length}`` and ``{tensor_parallel_degree}``,
anywhere in a word, for the facts. With the layout ``none`` the command is empty, and the job ends, as with
``weights_only``, when the weights are in the mirror.

The steps are look, devices, resources, image, weights (with the mirror, at the same time), export, verify, publish.
One job runs on a host at a time; another one ends at once.
The program prints one line of JSON for the start and the end of each step and for its progress, and passes on what
the container prints. It ends with 0 when the result is there, 1 when a step failed (in one line on standard error), 2
for a wrong job, 143 when it was stopped by SIGTERM, and 75 when a Spot interruption notice stopped it. Nothing counts
as published until ``manifest.json`` is there, and that is written last. Run again, it goes on where it was stopped:
weights that are there are not downloaded again, objects that are there with the same checksum are not uploaded again,
graphs that were compiled come from the compiler's cache, on a new host from its copy in S3.
"""
