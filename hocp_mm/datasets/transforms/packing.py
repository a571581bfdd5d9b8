"""From a record to what the model is called with."""

from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from hocp_mm.registry import TRANSFORMS
from hocp_mm.structures import AffectDataSample


@TRANSFORMS.register_module()
class PackAffectInputs:
    """Pack clip and labels: ``dict(inputs=uint8 [3, T, H, W], data_samples=AffectDataSample)``.

    Pixels stay bytes and stay where they are: ``inputs`` is ``imgs`` seen with its channels in front. Normalisation is
    the data preprocessor's, on the device.

    Labels are taken at ``frame_inds`` and keep their fraction (float32). Padding gets the label 0 and is not
    valid, so neither loss nor metric reads it. ``expression``, where a record has it (one class for all frames, or
    one per frame), becomes ``gt_expression``, with -1 on padding. ``face_found``, where a record has it, goes along,
    false on padding, and so does ``weight``, as ``gt_weight``, 0 where a label is not valid.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the packed clip; the record is left behind."""
        inds = results["frame_inds"]
        real = inds >= 0
        affect = np.where(real[:, None], results["affect"][inds], np.float32(0))
        expression = results.get("expression")
        if expression is not None:
            expression = np.broadcast_to(expression, results["num_frames"])[inds]  # padding is overwritten with -1
        found, times, weight = (results.get(name) for name in ("face_found", "times", "weight"))
        sample = AffectDataSample.from_clip(
            affect,
            results["valid"][inds] & real,
            video=results["video"],
            frame_inds=inds,
            num_frames=results["num_frames"],
            fps=results["fps"],
            subject=results["subject"],
            expression=expression,
            face_found=None if found is None else found[inds],  # padding is overwritten with False
            times=None if times is None else times[inds],
            weight=None if weight is None else weight[inds],  # padding is overwritten with 0
        )
        clip = torch.from_numpy(np.ascontiguousarray(results["imgs"]))
        if get_worker_info() is not None:
            # The queue of a data loader would do it, but later: a worker that holds the clips of a batch until then
            # gives their memory back to the system and asks for it again, batch after batch.
            clip.share_memory_()
        return {"inputs": clip.permute(3, 0, 1, 2), "data_samples": sample}  # [T, H, W, 3] -> [3, T, H, W]

    def __repr__(self) -> str:
        """Show the class; there are no settings."""
        return "PackAffectInputs()"
