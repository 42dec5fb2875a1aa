"""The host side of devices: reach them (remote), speak with the agent on them (session), build, bench and infer there."""
