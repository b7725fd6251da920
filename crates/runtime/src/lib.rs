//! Spec to plan to running pipeline: the engine
