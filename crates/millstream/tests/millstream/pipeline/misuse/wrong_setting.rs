use millstream::Pipeline;

pub fn pipeline() {
    Pipeline::new("numbers").values([1u64]).map(|n| n + 1).timeout(std::time::Duration::ZERO).drop();
}
