//! What libvirt's errors mean, told by their codes and never by their text.

use virt::connect::Connect;
use virt::error::{Error, ErrorDomain, ErrorNumber};

use super::host::HostError;
use crate::text::printable;
use crate::xml::BadText;

/// `errno` values of a full disk and of a used-up quota.
const NO_SPACE: [i32; 2] = [28, 122];
/// What a host says is cut there: it goes into objects and logs.
const LONGEST_MESSAGE: usize = 500;
/// `errno` of a thing in use.
const BUSY: i32 = 16;

/// An error inside a call; the call's name is added where it ends, see [`Failure::of`].
#[derive(Debug)]
pub(super) enum Failure {
    /// libvirt said so.
    Libvirt {
        /// The error.
        error: Error,
        /// The `errno` behind it, where there is one.
        errno: Option<i32>,
    },
    /// Somebody else uses the thing.
    InUse(String),
    /// The pool is full.
    NoSpace(String),
    /// Nobody answers.
    Silent(String),
    /// We refuse ourselves.
    Refused(String),
}

impl From<Error> for Failure {
    /// Must happen before libvirt is called again on this thread: the `errno` is read from its last error.
    fn from(error: Error) -> Self {
        let errno = (error.code().is(ErrorNumber::SystemError)).then(last_errno).flatten();
        Self::Libvirt { error, errno }
    }
}

impl From<BadText> for Failure {
    fn from(error: BadText) -> Self {
        Self::Refused(error.to_string())
    }
}

impl Failure {
    /// Whether libvirt gave this code.
    pub(super) fn is(&self, code: ErrorNumber) -> bool {
        matches!(self, Self::Libvirt { error, .. } if error.code().is(code))
    }

    /// Whether libvirt gave one of these codes.
    pub(super) fn is_any(&self, codes: &[ErrorNumber]) -> bool {
        codes.iter().any(|code| self.is(*code))
    }

    /// The same failure, if it is of that code, as something in use.
    pub(super) fn in_use_if(self, code: ErrorNumber) -> Self {
        if self.is(code) { Self::InUse(self.message()) } else { self }
    }

    /// What was said.
    pub(super) fn message(&self) -> String {
        match self {
            Self::Libvirt { error, .. } => explained(error.message()),
            Self::InUse(message) | Self::NoSpace(message) | Self::Silent(message) | Self::Refused(message) => {
                message.clone()
            }
        }
    }

    /// Whether it tells that nobody answers.
    pub(super) fn is_silence(&self) -> bool {
        match self {
            Self::Libvirt { error, .. } => is_silence(error),
            Self::Silent(_) => true,
            Self::InUse(_) | Self::NoSpace(_) | Self::Refused(_) => false,
        }
    }

    /// What the callers of a host get to see.
    pub(super) fn of(self, operation: &'static str) -> HostError {
        let message = printable(&self.message(), LONGEST_MESSAGE);
        if self.is_silence() {
            return HostError::Unreachable { operation, message };
        }
        match self {
            Self::NoSpace(_) => HostError::NoSpace { operation, message },
            Self::Libvirt { errno: Some(errno), .. } if NO_SPACE.contains(&errno) => {
                HostError::NoSpace { operation, message }
            }
            Self::InUse(_) => HostError::InUse { operation, message },
            Self::Libvirt { ref error, errno } if errno == Some(BUSY) || is_busy(error) => {
                HostError::InUse { operation, message }
            }
            Self::Libvirt { .. } | Self::Silent(_) | Self::Refused(_) => HostError::Refused { operation, message },
        }
    }
}

/// Whether another job holds the domain or the volume.
fn is_busy(error: &Error) -> bool {
    error.code().is_any(vec![ErrorNumber::ResourceBusy, ErrorNumber::OperationTimeout])
}

/// Whether the error came from the way to the host and not from the host's answer.
fn is_silence(error: &Error) -> bool {
    let code = error.code();
    if code.is_any(vec![ErrorNumber::NoSupport, ErrorNumber::OperationUnsupported, ErrorNumber::ArgumentUnsupported]) {
        return false;
    }
    let transport = vec![ErrorDomain::Rpc, ErrorDomain::Remote, ErrorDomain::Ssh, ErrorDomain::Libssh];
    error.domain().is_any(transport)
        || code.is_any(vec![
            ErrorNumber::NoConnect,
            ErrorNumber::InvalidConn,
            ErrorNumber::UnknownHost,
            ErrorNumber::Rpc,
            ErrorNumber::GnutlsError,
            ErrorNumber::AuthFailed,
            ErrorNumber::AuthCancelled,
            ErrorNumber::AuthUnavailable,
            ErrorNumber::Ssh,
            ErrorNumber::Libssh,
        ])
}

/// What libvirt says when the host closes the door on our certificate doesn't mention certificates.
fn explained(message: &str) -> String {
    const TURNED_AWAY: &str = "Unable to read TLS confirmation";
    const HINT: &str = "the host refuses the operator's certificate: look at ca_file and tls_allowed_dn_list in its \
                        libvirtd.conf and at its log";
    if message.contains(TURNED_AWAY) { format!("{message} ({HINT})") } else { message.to_owned() }
}

/// Marks a failure on a connection that broke meanwhile: whatever the error says, it is no answer of the host.
pub(super) fn if_broken(connection: &Connect, failure: Failure) -> Failure {
    if connection.is_alive().unwrap_or(false) { failure } else { Failure::Silent(failure.message()) }
}

/// The `errno` of this thread's last libvirt error, which the `virt` crate doesn't hand on.
fn last_errno() -> Option<i32> {
    // SAFETY: the pointer is libvirt's thread-local error or null; it is valid until the next libvirt call of this
    // thread, and only an integer is copied from it.
    unsafe { virt::sys::virGetLastError().as_ref() }.map(|error| error.int1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_driver() -> Connect {
        Connect::open(Some("test:///default")).unwrap()
    }

    #[test]
    fn a_refusal_is_no_silence() {
        super::super::link::initialise().unwrap();
        let failure = Failure::from(test_driver().lookup_domain_by_name("nobody").unwrap_err());
        assert!(failure.is(ErrorNumber::NoDomain) && !failure.is_silence());
        assert_eq!(failure.of("look").reason(), "HostRefused");
    }

    #[test]
    fn a_certificate_that_was_turned_away_is_named() {
        let said = explained("Unable to read TLS confirmation: Input/output error");
        assert!(said.contains("refuses the operator's certificate"), "{said}");
        assert_eq!(explained("Connection refused"), "Connection refused");
    }

    #[test]
    fn a_closed_port_is_silence() {
        super::super::link::initialise().unwrap();
        let failure = Failure::from(Connect::open(Some("qemu+tcp://127.0.0.1:1/system")).unwrap_err());
        assert!(failure.is_silence(), "{failure:?}");
    }

    #[test]
    fn the_errno_of_a_failed_system_call_is_known() {
        super::super::link::initialise().unwrap();
        let failure = Failure::from(Connect::open(Some("qemu+unix:///system?socket=/does/not/exist")).unwrap_err());
        assert!(matches!(failure, Failure::Libvirt { errno: Some(2), .. }), "{failure:?}");
    }
}
