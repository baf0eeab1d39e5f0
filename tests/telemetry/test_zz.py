import gc
async def test_b():
    pass
def test_s():
    gc.collect()
async def test_c():
    pass
def test_t():
    gc.collect()
