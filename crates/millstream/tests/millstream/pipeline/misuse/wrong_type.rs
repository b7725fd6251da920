use millstream::Pipeline;

pub fn pipeline() {
    Pipeline::new("numbers").values([1u64]).map(|text: &String| text.len() as u64).drop();
}
