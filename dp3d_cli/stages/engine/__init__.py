"""What every stage shares: discovery, identities, records and resume, shards, progress, faults, signals.

The engine knows nothing of faces, cameras or diffusion. A stage is a `Stage`: it turns one `Item` into files
inside a draft folder; the engine moves them into place and writes the record that makes the item done.
"""
