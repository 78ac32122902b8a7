"""The data: recordings and transcriptions of IAM-OnDB, and the data set that is prepared from them."""
