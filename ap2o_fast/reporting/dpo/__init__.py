"""Report and model card of plain DPO."""
