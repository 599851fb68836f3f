//! Compiles the protobuf definitions without an external compiler.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let runtime = protox::compile(["cri.proto", "containerd.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(runtime)?;
    // Maps in order: the same object is the same bytes.
    let devices = protox::compile(["dmi.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .btree_map(".v1beta1")
        .compile_fds(devices)?;
    Ok(())
}
