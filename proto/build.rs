//! Generates the wire's code from `glint/v1/*.proto`.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let files =
        ["inference", "worker", "rank", "fleet"].map(|name| format!("glint/v1/{name}.proto"));
    tonic_prost_build::configure()
        .file_descriptor_set_path(out.join("glint.bin"))
        .bytes(".glint.v1.AssetChunk")
        .compile_protos(&files, &[".".to_owned()])?;
    Ok(())
}
