"""Is it really gone? Probes that attack a result, always beside the original and a model that never saw the class."""
