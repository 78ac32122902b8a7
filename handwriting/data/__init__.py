"""The data: line files and transcriptions of IAM-OnDB, and the prepared data set."""
