//! A second opinion by `qemu-img`, under limits of time, memory and output, on a file that has passed the gate.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::{DiskFacts, ImageError, Rejection};
use crate::api::DiskFormat;
use crate::text::printable;

/// Where the tools are.
#[derive(Clone, Debug)]
pub(super) struct Examiner {
    qemu_img: PathBuf,
    prlimit: PathBuf,
}

/// Address space that `qemu-img` gets.
const MEMORY: u64 = 2 << 30;

/// Its output is cut there.
const OUTPUT: u64 = 1 << 20;

/// Exit codes of `qemu-img check` for a sound file, and for one that only wastes space.
const SOUND: i32 = 0;
const LEAKS: i32 = 3;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    format: String,
    virtual_size: u64,
    backing_filename: Option<String>,
}

struct Output {
    status: ExitStatus,
    text: Vec<u8>,
    complaint: String,
}

impl Examiner {
    /// Looks for `qemu-img`, and for `prlimit` without which it isn't run.
    pub(super) fn find() -> Option<Self> {
        let found = |tool| {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path).map(|folder| folder.join(tool)).find(|file| file.is_file())
        };
        let examiner = Some(Self { qemu_img: found("qemu-img")?, prlimit: found("prlimit")? });
        examiner.filter(|examiner| examiner.qemu_img.is_absolute() && examiner.prlimit.is_absolute())
    }

    /// Asks `qemu-img` whether it sees the same.
    pub(super) async fn confirm(&self, file: &Path, format: DiskFormat, facts: DiskFacts) -> Result<(), ImageError> {
        let refuse = |why: String| ImageError::from(Rejection::SecondOpinion(why));
        let answer = self.run("info", file, format).await?;
        if !answer.status.success() {
            return Err(refuse(answer.complaint));
        }
        let info: Info = serde_json::from_slice(&answer.text)
            .map_err(|error| ImageError::Examination(format!("unreadable output: {error}")))?;
        if info.backing_filename.is_some() {
            return Err(Rejection::BackingFile.into());
        }
        // QEMU counts in sectors.
        let size = facts.virtual_size.get().next_multiple_of(512);
        if info.format != format.as_str() || info.virtual_size != size {
            return Err(refuse(format!("it sees {} of {} bytes, expected {size}", info.format, info.virtual_size)));
        }
        if format == DiskFormat::Qcow2 {
            let answer = self.run("check", file, format).await?;
            match answer.status.code() {
                Some(SOUND | LEAKS) => {}
                _ => return Err(refuse(answer.complaint)),
            }
        }
        Ok(())
    }

    /// Runs one subcommand. The file's path is absolute, so it is neither an option nor a protocol.
    async fn run(&self, subcommand: &str, file: &Path, format: DiskFormat) -> Result<Output, ImageError> {
        let size = tokio::fs::metadata(file).await.map_err(|error| ImageError::store(file, error))?.len();
        let seconds = 30 + 30 * (size >> 30);
        let mut child = Command::new(&self.prlimit)
            .args([format!("--cpu={seconds}"), format!("--as={MEMORY}")])
            .args(["--fsize=0", "--core=0", "--nofile=64", "--"])
            .arg(&self.qemu_img)
            .args([subcommand, "--force-share", "-f", format.as_str(), "--output", "json"])
            .arg(file)
            .env_clear()
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| ImageError::Examination(error.to_string()))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let run = async {
            let (text, complaint) = tokio::join!(read(stdout), read(stderr));
            (child.wait().await, text, complaint)
        };
        let deadline = Duration::from_secs(2 * seconds);
        let Ok((status, text, complaint)) = tokio::time::timeout(deadline, run).await else {
            return Err(ImageError::Examination(format!("no answer within {} s", deadline.as_secs())));
        };
        let status = status.map_err(|error| ImageError::Examination(error.to_string()))?;
        let complaint = match status.signal() {
            Some(signal) => format!("stopped by signal {signal}: it needs more than {seconds} s or 2 GiB to be read"),
            None => first_line(&complaint, file),
        };
        Ok(Output { status, text, complaint })
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What can't be read is as if it hadn't been said: the exit status decides.
        let _ = pipe.take(OUTPUT).read_to_end(&mut bytes).await;
    }
    bytes
}

/// The first line of a complaint, short, printable and without our path.
fn first_line(complaint: &[u8], file: &Path) -> String {
    let text = String::from_utf8_lossy(complaint);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it is damaged");
    printable(&line.replace(&*file.to_string_lossy(), "file"), 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_one_short_printable_line() {
        let complaint = b"\nqemu-img: Could not open '/cache/abc': \x1b[31mbad\nmore";
        assert_eq!(first_line(complaint, Path::new("/cache/abc")), "qemu-img: Could not open 'file': \u{fffd}[31mbad");
        assert_eq!(first_line(b"", Path::new("/")), "it is damaged");
    }
}
