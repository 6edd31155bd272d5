//! Text that a guest, a host or a source of images wrote, made fit for objects, terminals and logs.

/// The text on one line, without characters that hide or rearrange what a terminal shows, and at most `limit` bytes
/// long. What was cut off is replaced by an ellipsis.
#[must_use]
pub fn printable(text: &str, limit: usize) -> String {
    const ELLIPSIS: char = '…';
    let (mut shown, mut end) = (String::new(), 0);
    for character in text.chars().map(visible) {
        if shown.len() + character.len_utf8() > limit {
            shown.truncate(end);
            if limit >= ELLIPSIS.len_utf8() {
                shown.push(ELLIPSIS);
            }
            return shown;
        }
        shown.push(character);
        if shown.len() + ELLIPSIS.len_utf8() <= limit {
            end = shown.len();
        }
    }
    shown
}

/// White space as a blank, and what nobody should see as the character that stands for such.
fn visible(character: char) -> char {
    match character {
        '\t' | '\n' | '\r' => ' ',
        hidden if is_hidden(hidden) => char::REPLACEMENT_CHARACTER,
        shown => shown,
    }
}

/// Control characters, line ends of Unicode, those that change the direction of the text around them, invisible ones,
/// and what is no character.
#[must_use]
pub fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{fffe}'
                | '\u{ffff}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_of_many_lines_is_one_line() {
        assert_eq!(
            printable("internal error:\n\tno\u{1b}[31m \u{202e}dne", 100),
            "internal error:  no\u{fffd}[31m \u{fffd}dne"
        );
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(printable("éééé", 8), "éééé");
        assert_eq!(printable("ééééé", 8), "éé…");
        assert_eq!(printable("abcdef", 5), "ab…");
        assert_eq!(printable("abcdef", 2), "");
        assert_eq!(printable("a", 0), "");
    }

    proptest! {
        #[test]
        fn nothing_hidden_and_nothing_long_comes_through(text in any::<String>(), limit in 0_usize..200) {
            let shown = printable(&text, limit);
            prop_assert!(shown.len() <= limit && !shown.contains(is_hidden), "{shown:?}");
            prop_assert_eq!(printable(&shown, limit), shown);
        }

        #[test]
        fn what_is_printable_and_fits_stays_as_it_is(text in "[\\PC--\\p{Zl}\\p{Zp}]{0,50}") {
            prop_assert_eq!(printable(&text, 200), text);
        }
    }
}
