use millstream::Pipeline;

pub fn pipeline() {
    Pipeline::new("numbers").values([1u64]).partition_by(|n| *n as f64).drop();
}
