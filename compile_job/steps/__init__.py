"""The steps of the job, one module each."""
