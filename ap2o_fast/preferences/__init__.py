"""Plain DPO from preference data in TRL's format: `ap2o dpo` and `ap2o_fast.Trainer`."""
