package inventory

// MergeFields is Merge without the short way for what one source alone tells.
func MergeFields(bySource map[Source]Facts) Facts { return mergeFields(bySource) }
