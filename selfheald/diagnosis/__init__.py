"""What `selfheald doctor` finds out: probes gather facts, judgements make findings of them."""
