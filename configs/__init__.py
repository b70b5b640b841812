"""The shipped YAML configs, installed as pairuni.configs."""
