"""What known failures of Neuron, Docker and the hub mean, and what to do."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["remedy"]

# Text in the output, and the remedy. Sources: docs of the Neuron SDK, optimum-neuron's and Docker's messages.
_REMEDIES = (
    (
        ("[F137]", "neuronx-cc failed with -9", "forcibly killed"),
        "the host has too little memory: use a larger instance",
    ),
    (
        ("Estimated peak HBM usage", "Failed to alloc DEVICE memory", 'message="Allocation Failure"'),
        "the model does not fit the accelerator: raise the tensor parallel degree, or lower batch size or length",
    ),
    (
        ("Unsupported topology. Supported number of Neuron Cores is",),
        "this tensor parallel degree is not possible on this instance",
    ),
    (
        ("The specified number of cores (", "Neuron cores detected on the host"),
        "the container sees too few Neuron cores: check the instance type and its devices",
    ),
    (
        ("Decoder models can only be exported on a neuron platform",),
        "the Neuron driver is not loaded: use a Neuron AMI on an Inferentia or Trainium instance",
    ),
    (
        ('adding custom device "/dev/neuron', "error gathering device information"),
        "a Neuron device is missing: wrong AMI or instance type, or the driver is not loaded",
    ),
    (
        ("NeuronCore(s) not available - Requested:",),
        "another process holds the Neuron cores: end it (neuron-ls shows it) or use a fresh host",
    ),
    (
        ("is not compatible with the installed aws-neuron-dkms", "Unable to determine Neuron Driver version"),
        "driver and container do not fit: use the AMI line that the deployment's plan names",
    ),
    (
        ("Cannot access gated repo", "GatedRepoError", "is restricted and you are not in the authorized list"),
        "accept the model's licence on the hub with the account whose token is in the secret",
    ),
    (("RepositoryNotFoundError",), "no such model, or the token may not see it: check model id and token"),
    (("RevisionNotFoundError",), "the model has no such revision: check model_revision"),
    (
        ("401 Client Error", "Invalid credentials", "Invalid user token"),
        "the token in the secret is not valid: store a new one",
    ),
    (("No space left on device",), "the volume is full: give the host a larger root volume"),
    (("invalid choice: 'neuron'",), "the image has a broken optimum installation: use another image version"),
    (
        ("Temporary failure in name resolution", "Name or service not known", "Max retries exceeded with url"),
        "the host cannot reach the hub: the compile subnet needs a way to the internet",
    ),
    (("Cannot connect to the Docker daemon",), "start Docker: systemctl start docker"),
    (("pull access denied", "no basic auth credentials"), "the host's role may not pull this image"),
)


def remedy(lines: Iterable[str]) -> str:
    """Return what to do about a known failure in these lines; empty when none is known."""
    text = "\n".join(lines)
    return next((words for patterns, words in _REMEDIES if any(pattern in text for pattern in patterns)), "")
