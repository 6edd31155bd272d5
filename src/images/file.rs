//! Opening a file of the operator's own file system: only below the allowed directories, whatever links say.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

use tracing::debug;

use super::ImageError;

/// The one answer for what isn't there, lies elsewhere, is led elsewhere by a link, or can't be seen by the operator.
const NOT_THERE: &str = "no such file below one of the site's images.fileRoots, links followed";

/// Opens a regular file that lies, all links followed, below one of the roots. Gives its size too.
pub(super) async fn open(path: &Path, url: &str, roots: &[PathBuf]) -> Result<(File, u64), ImageError> {
    let (path, roots, shown) = (path.to_owned(), roots.to_vec(), url.to_owned());
    let open = move || open_below(&path, &shown, &roots);
    tokio::task::spawn_blocking(open).await.map_err(|_| ImageError::Interrupted)?
}

fn open_below(path: &Path, url: &str, roots: &[PathBuf]) -> Result<(File, u64), ImageError> {
    let refuse = |problem| ImageError::File { url: url.to_owned(), problem };
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => refuse(NOT_THERE),
        io::ErrorKind::PermissionDenied => refuse("the operator may not read it"),
        _ => ImageError::Unreachable { url: url.to_owned(), message: error.to_string() },
    };
    if roots.is_empty() {
        return Err(refuse("the site admits no files: name their directory in images.fileRoots"));
    }
    let outside = || refuse(NOT_THERE);
    // A root that isn't there admits nothing.
    let real_roots: Vec<PathBuf> = roots.iter().filter_map(|root| root.canonicalize().ok()).collect();
    let is_below = |path: &Path| real_roots.iter().any(|root| path.starts_with(root));
    // What is elsewhere isn't even looked at: neither words nor time tell whether it is there.
    let is_named_below = is_below(path) || roots.iter().any(|root| path.starts_with(root));
    if path.components().any(|part| part == Component::ParentDir) || !is_named_below {
        return Err(outside());
    }
    // A link may lead outside, where whatever is wrong is nobody's business either; the operator's log says it to the site.
    let place = path.canonicalize().map_err(|error| {
        debug!(%error, path = %path.display(), "a file of an image can't be opened");
        outside()
    })?;
    if !is_below(&place) {
        return Err(outside());
    }
    // Judged before it is opened: opening a pipe waits, opening a device may do something.
    if !place.metadata().map_err(failed)?.is_file() {
        return Err(refuse("not a regular file"));
    }
    let file = File::open(&place).map_err(failed)?;
    // Somebody may have put a link there in between: what counts is what was opened.
    let opened = Path::new("/proc/self/fd").join(file.as_raw_fd().to_string()).read_link().map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    match (is_below(&opened), facts.is_file()) {
        (true, true) => Ok((file, facts.len())),
        (false, _) => Err(outside()),
        _ => Err(refuse("not a regular file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_regular_files_below_a_root_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        let outside = folder.path().join("root-of-another");
        for directory in [&root, &outside] {
            std::fs::create_dir(directory).unwrap();
            std::fs::write(directory.join("file"), b"content").unwrap();
        }
        symlink(outside.join("file"), root.join("escape")).unwrap();
        symlink(&outside, root.join("way-out")).unwrap();
        symlink(root.join("file"), root.join("inside")).unwrap();
        symlink("/dev/zero", root.join("zero")).unwrap();
        let roots = [root.clone(), folder.path().join("not-there")];
        let problem = |path: PathBuf| open_below(&path, "file:///shown", &roots).unwrap_err().to_string();
        assert_eq!(open_below(&root.join("file"), "", &roots).unwrap().1, 7);
        assert_eq!(open_below(&root.join("inside"), "", &roots).unwrap().1, 7);
        for path in ["escape", "way-out/file", "../root-of-another/file", "zero", "nothing"] {
            assert!(problem(root.join(path)).contains(NOT_THERE), "{path}");
        }
        assert!(problem(root.clone()).contains("not a regular file"));
        assert!(open_below(&root.join("file"), "", &[]).unwrap_err().to_string().contains("fileRoots"));
    }

    #[test]
    fn nothing_tells_what_there_is_outside_the_roots() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        for directory in [&root, &outside] {
            std::fs::create_dir(directory).unwrap();
        }
        std::fs::write(outside.join("file"), b"content").unwrap();
        symlink(&outside, root.join("way-out")).unwrap();
        symlink(outside.join("file"), root.join("escape")).unwrap();
        symlink(outside.join("nothing"), root.join("dangling")).unwrap();
        symlink(root.join("endless"), root.join("endless")).unwrap();
        let roots = [root.clone()];
        let answer = |path: &Path| {
            let error = open_below(path, "file:///shown", &roots).unwrap_err();
            (error.to_string(), error.reason(), error.hope())
        };
        let expected = answer(&root.join("nothing"));
        let through = ["escape", "dangling", "endless", "way-out/file", "way-out/nothing", "way-out/file/below"];
        let elsewhere = [outside.join("file"), outside.join("nothing"), outside.join("file/below"), outside.clone()];
        for path in through.iter().map(|path| root.join(path)).chain(elsewhere) {
            assert_eq!(answer(&path), expected, "{}", path.display());
        }
    }
}
