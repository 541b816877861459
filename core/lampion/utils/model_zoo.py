"""The older place of `hub.load_state_dict_from_url`. Floor 7; imports hub."""

from ..hub import load_state_dict_from_url

load_url = load_state_dict_from_url
__all__ = ["load_url"]
