"""Coordination of processes that share slides: leases, attempts, records, publication."""
