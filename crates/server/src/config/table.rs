//! Tables of settings: an entry is a field's documentation, type, default, checks and flags, and nothing else names it.

/// Declares a section's struct by its settings:
///
/// ```text
/// settings! {
///     /// What the section is about.
///     "name_in_the_file" NameOfTheStruct {
///         /// One sentence on one line: the flag's help. The lines after it are for the file alone.
///         field: Type = default, range(1..=8), flag("-f --field <VALUE>");
///     }
/// }
/// ```
///
/// What follows the default are calls of methods of `Setting`. Key (`name_in_the_file.field`) and environment
/// variable (`FOREBAY_NAME_IN_THE_FILE__FIELD`) follow from the names.
macro_rules! settings {
    (
        $(#[doc = $about:literal])*
        $section:literal $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $field:ident: $type:ty = $default:expr $(, $option:ident($($argument:tt)*))*;
            )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($(#[doc = $doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $name {
            /// The table, as far as types do not matter.
            pub(super) fn section() -> $crate::config::setting::Section {
                $crate::config::setting::Section {
                    name: $section,
                    about: &[$($about),*],
                    settings: vec![$(
                        $crate::config::setting::Setting::<$type>::new(
                            stringify!($field),
                            &[$($doc),*],
                            $default,
                        )
                        $(.$option($($argument)*))*
                        .describe(),
                    )*],
                }
            }

            /// Reads each setting that a layer has, by keys that begin with `section`.
            pub(super) fn read(&mut self, layers: &mut $crate::config::layers::Layers, section: &str) {
                $(
                    let setting = $crate::config::setting::Setting::<$type>::new(
                        stringify!($field),
                        &[$($doc),*],
                        $default,
                    )
                    $(.$option($($argument)*))*;
                    layers.read(section, &setting, &mut self.$field);
                )*
            }
        }
    };
}
pub(super) use settings;
