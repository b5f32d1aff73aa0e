"""What stands in on an emulated compile host: ``python -m modelzone.local.host TOOL [ARGUMENT ...]``.

A host of the embedded AWS is a folder and the processes that run in it (`modelzone.local.emulator.hosts`). Its scripts
are the real ones; the tools that need hardware, a container runtime or root are these:

- ``docker``: keeps images and containers as small files, runs a "container" as a process of its own session, and
  writes every command line it is given to ``containers.jsonl`` in the host's folder.
- ``optimum-cli`` inside a container: the export stand-in, in the version that the image holds; likewise LMI's
  ``trt_llm_partition.py``.
- ``neuron-ls`` and ``nvidia-smi``: the devices that the instance type has.
- ``shutdown`` and ``systemctl``: ``shutdown`` and ``systemctl poweroff`` end the instance; a minute counts as a second.
- ``site/sitecustomize.py``: Python sees the disk and the memory of the instance type instead of this machine's.

Everything else is real: ``bash``, ``python3``, ``aws`` (pointed at the embedded AWS), ``huggingface_hub`` (pointed at
the hub that the embedded AWS serves). What a fault file says (see `modelzone.local.host.faults`) goes wrong.
"""
