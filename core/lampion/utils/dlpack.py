"""`torch.utils.dlpack`: tensors from and to DLPack capsules. Floor 7; re-exports."""

from ..dlpack import from_dlpack, to_dlpack

__all__ = ["from_dlpack", "to_dlpack"]
