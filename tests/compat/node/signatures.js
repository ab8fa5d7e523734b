'use strict';
const assert = require('node:assert/strict');
const { test } = require('node:test');
const { refused } = require('./steps');

module.exports = (context) => {
  const list = (changes) => () => context.makeClient(changes).listTable({});

  test('the right key is accepted', async () => {
    assert.ok(Array.isArray((await list()()).tableNames));
  });

  test('a wrong secret, key or instance is refused', async () => {
    await refused(403, 'OTSAuthFailed', 'Signature mismatch.', list({ secretAccessKey: 'wrong' }));
    await refused(403, 'OTSAuthFailed', 'The AccessKeyID does not exist.',
      list({ accessKeyId: 'nobody' }));
    await refused(403, 'OTSAuthFailed', 'The instance is not found.',
      list({ instancename: 'elsewhere' }));
    await refused(403, 'OTSAuthFailed', '', list({ stsToken: 'forged' }));
  });
};
