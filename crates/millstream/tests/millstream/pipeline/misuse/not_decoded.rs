use millstream::Pipeline;

pub fn pipeline() {
    Pipeline::new("bytes").source("file:in.txt").batch(millstream::Batching::count(10));
}
