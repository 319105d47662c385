"""Everything a user can say: YAML files only; this makes the folder a part of the installed
package."""
