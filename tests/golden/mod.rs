//! Golden bytes: hex files with a first line that says how they were made. `capture/` rewrites those of the Java clients.

#![allow(dead_code, reason = "each test program uses its part")]

use std::path::{Path, PathBuf};

/// The folders of bytes that stock Java classes wrote.
pub(crate) const JAVA_RELEASES: [&str; 2] = ["java-4.9.8", "java-5.5.0"];
/// The folder of bytes that our encoders wrote, and that the Java classes were seen to read.
pub(crate) const OURS: &str = "ringmq";

fn file(folder: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder).join(format!("{name}.hex"))
}

/// The bytes of one file.
pub(crate) fn read(folder: &str, name: &str) -> Vec<u8> {
    let path = file(folder, name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let digits: String = text.lines().filter(|line| !line.starts_with('#')).collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| {
            u8::from_str_radix(&digits[at..at + 2], 16).unwrap_or_else(|_| panic!("{}", path.display()))
        })
        .collect()
}

/// The bytes of all files of a folder whose name starts with `prefix`, by name.
pub(crate) fn read_all(folder: &str, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let folder_path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let mut names: Vec<String> = std::fs::read_dir(&folder_path)
        .unwrap_or_else(|error| panic!("{}: {error}", folder_path.display()))
        .filter_map(|entry| entry.expect("the folder can be listed").file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(".hex")?.to_owned()))
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names.into_iter().map(|name| (name.clone(), read(folder, &name))).collect()
}

/// Compares what our encoder writes with the file, or writes the file when the environment has `RINGMQ_WRITE_GOLDEN`.
pub(crate) fn assert_is_golden(name: &str, bytes: &[u8]) {
    if std::env::var_os("RINGMQ_WRITE_GOLDEN").is_some() {
        let mut text = "# encoded by tests/golden_remoting.rs with RINGMQ_WRITE_GOLDEN=1; read by Java in tests/golden/capture\n".to_owned();
        for line in bytes.chunks(48) {
            text.extend(line.iter().map(|byte| format!("{byte:02x}")));
            text.push('\n');
        }
        let path = file(OURS, name);
        std::fs::create_dir_all(path.parent().expect("has a folder")).expect("the folder can be made");
        std::fs::write(path, text).expect("the file can be written");
        return;
    }
    let golden = read(OURS, name);
    assert_eq!(
        String::from_utf8_lossy(bytes),
        String::from_utf8_lossy(&golden),
        "{name}: `make golden` shows whether Java still reads it"
    );
    assert_eq!(bytes, golden, "{name}");
}
